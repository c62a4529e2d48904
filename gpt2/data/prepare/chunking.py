"""Split documents into batches of about a megabyte, cut where no token changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpus import Corpus, Document
from gpt2.data.tokenizer import Tokenizer

BATCH = 1 << 20  # characters encoded together
LONGEST = 16 << 20  # longest text held in memory without a place to cut, in characters


@dataclass(frozen=True)
class Position:
    """How far a corpus is read: whole documents, and characters of the next one."""

    documents: int = 0
    characters: int = 0


@dataclass(frozen=True)
class Text:
    """A part of a document that can be encoded by itself; `ends` if it is the last part."""

    split: str
    text: str
    ends: bool


@dataclass
class Batch:
    """Texts in the corpus's order, the position after them, and its empty documents so far.

    Texts of all splits are mixed.
    """

    texts: list[Text] = field(default_factory=list)
    position: Position = field(default_factory=Position)
    empty: int = 0


def batches(
    corpus: Corpus, tokenizer: Tokenizer, start: Position, empty: int = 0
) -> Iterator[Batch]:
    """Yield the corpus from `start` on in batches of about BATCH characters.

    `empty` documents were counted before `start`; more are counted and left out. A batch may begin
    and end within a document, so that no document is ever whole in memory. Raises UserError (DATA)
    as cut() does.
    """
    batch, size = Batch(position=start, empty=empty), 0
    for number, document in enumerate(corpus.documents(start.documents), start.documents):
        skip = start.characters if number == start.documents else 0
        characters = skip
        for text in cut(tokenizer, document, skip):
            characters += len(text.text)
            place = Position(number + 1) if text.ends else Position(number, characters)
            batch.texts.append(text)
            batch.position = place
            size += len(text.text)
            if size >= BATCH:
                yield batch
                batch, size = Batch(position=place, empty=batch.empty), 0
        if not characters:
            batch.empty += 1
            batch.position = Position(number + 1)
    yield batch


def cut(tokenizer: Tokenizer, document: Document, skip: int = 0) -> Iterator[Text]:
    """Yield a document from character `skip` on in texts of about BATCH characters.

    Their ids, joined, are those of the whole document; `skip` must be the end of an earlier text.
    An empty document yields nothing. Raises UserError (DATA) naming the place of LONGEST characters
    without a place to cut.
    """
    held: list[str] = []
    size = wanted = 0
    characters, offset = skip, 0
    for whole in _bounded(document.pieces):
        piece = whole[skip:]
        offset += _utf8(whole[:skip])
        skip = max(0, skip - len(whole))
        held.append(piece)
        size += len(piece)
        if size < max(BATCH, wanted):
            continue
        text = "".join(held)
        place = tokenizer.cut(text)
        if place:
            yield Text(document.split, text[:place], ends=False)
            characters += place
            offset += _utf8(text[:place])
        elif size >= LONGEST:
            raise UserError(
                f"{document.name}: no blank in {size:,} characters from character {characters:,}"
                f" (byte {offset:,}) on: such a text cannot be encoded piece by piece; break its"
                " lines",
                code=Exit.DATA,
            )
        held, size = [text[place:]], len(text) - place
        wanted = 2 * size  # searches a long text a few times only
    if size or characters:
        yield Text(document.split, "".join(held), ends=True)


def _utf8(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        for start in range(0, len(piece), BATCH):
            yield piece[start : start + BATCH]
