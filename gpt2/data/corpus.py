"""What a plug-in in corpora/ offers: documents, the tokenizer they call for, and their source."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt2.data.splits import SPLITS, split_characters
from gpt2.data.tokenizer import Tokenizer

DOCUMENT_END = "\n"  # what ends a document where the tokenizer has no end-of-text


@dataclass(frozen=True)
class Request:
    """What the user asked a corpus for.

    `input` is --input, `tokenizer` is --tokenizer (None: the corpus's own), and `downloads` is the
    folder in which what was fetched is kept, so that it is fetched once. `text_column` is
    --text-column, for files with columns or keys (None: "text"). `skip_bad` is --bad-files skip,
    `end_of_text` is --end-of-text token, and `say` is given lines for the user.
    """

    input: Path | None
    tokenizer: str | None
    downloads: Path
    text_column: str | None = None
    skip_bad: bool = False
    end_of_text: bool = False
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Document:
    """A document of one of its corpus's splits, in pieces of text of any length.

    `pieces` are to be read to their end before the next document is asked for. `name` says where it
    is (a file, a line of one), for errors.
    """

    split: str
    pieces: Iterable[str]
    name: str = "a document"


class Corpus(Protocol):
    """A text in splits, read once and in pieces: no document need ever be whole in memory.

    `separated` says that it is made of documents, each of which is to be ended by end-of-text (by
    a newline, where the tokenizer has none); otherwise it is one text. `splits` are "train", "val"
    and any others, in the order in which meta.json lists them. Only the first two must have
    text: a short corpus may have nothing left for "test". `source` is JSON, with at least `address`
    and, at the latest when all was read, `sha256`: where the text came from, and what it was. As it
    is before anything was read, it tells one corpus from another: an interrupted preparation goes
    on only where it is the same.
    """

    @property
    def separated(self) -> bool:
        """Whether the corpus is made of documents."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its splits, in lower case: each becomes a file of that name."""
        ...

    @property
    def source(self) -> dict[str, Any]:
        """Where the text came from, for meta.json; it may be completed while it is read."""
        ...

    @property
    def text_bytes(self) -> int | None:
        """UTF-8 bytes of the whole text, or somewhat more; None where only reading it tells."""
        ...

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer; it knows every character of the text."""
        ...

    def documents(self, skip: int = 0) -> Iterator[Document]:
        """Yield the documents of all splits in one pass, always in the same order.

        The first `skip` of them are passed over, as cheaply as the corpus can: that is where an
        interrupted preparation goes on. Empty documents may be among them. Raises UserError (DATA)
        that names a file which cannot be read.
        """
        ...


class WholeText:
    """A corpus of one text that is small enough to hold: its last tenth is validation and test."""

    separated = False
    splits = SPLITS

    def __init__(self, text: str, source: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.source = source
        self._tokenizer = tokenizer
        self._text = text

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self._text.encode())

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer the corpus was opened with."""
        return self._tokenizer

    def documents(self, skip: int = 0) -> Iterator[Document]:
        """Yield the part for training, then those for validation and test."""
        name = str(self.source.get("address", "the text"))
        parts = split_characters(len(self._text))
        for split, (start, end) in itertools.islice(parts.items(), skip, None):
            yield Document(split, [self._text[start:end]], name)


class CorpusPlugin(Protocol):
    """What every module in corpora/ is. Its constants are literals: see gpt2.data.declaration."""

    TOKENIZERS: tuple[str, ...]

    def open_corpus(self, request: Request) -> Corpus:
        """Open the corpus; raises UserError (DATA) for what it cannot do with `request`."""
        ...
