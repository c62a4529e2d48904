"""What a plug-in in corpora/ offers: documents, the tokenizer they call for, and their source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt2.data.tokenizer import Tokenizer

TRAIN_SHARE = 0.9  # of a text's characters; the rest, its end, is for validation
DOCUMENT_END = "\n"  # what ends a document where the tokenizer has no end-of-text


@dataclass(frozen=True)
class Request:
    """What the user asked a corpus for.

    `input` is --input, `tokenizer` is --tokenizer (None: the corpus's own), and `downloads` is the
    folder in which what was fetched is kept, so that it is fetched once.
    """

    input: Path | None
    tokenizer: str | None
    downloads: Path


class Corpus(Protocol):
    """A text in two splits, read in pieces: no document need ever be whole in memory.

    `separated` says that it is made of documents, each of which is to be ended by end-of-text (by
    a newline, where the tokenizer has none); otherwise it is one text. `source` is JSON, with at
    least `address` and `sha256`: where the text came from, and what it was.
    """

    @property
    def separated(self) -> bool:
        """Whether the corpus is made of documents."""
        ...

    @property
    def source(self) -> dict[str, Any]:
        """Where the text came from, for meta.json."""
        ...

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer; it knows every character of the text."""
        ...

    def documents(self, split: str) -> Iterator[Iterable[str]]:
        """Yield the documents of "train" or "val", each in pieces of text.

        A document is to be read to its end before the next is asked for. Raises UserError (DATA)
        that names a file which cannot be read.
        """
        ...


class WholeText:
    """A corpus of one text that is small enough to hold: its last tenth is for validation."""

    separated = False

    def __init__(self, text: str, source: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.source = source
        self._tokenizer = tokenizer
        border = train_characters(len(text))
        self._parts = {"train": text[:border], "val": text[border:]}

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer the corpus was opened with."""
        return self._tokenizer

    def documents(self, split: str) -> Iterator[Iterable[str]]:
        """Yield the one part of the text."""
        yield [self._parts[split]]


def train_characters(characters: int) -> int:
    """Characters of a text that are for training, from its start."""
    return int(TRAIN_SHARE * characters)


class CorpusPlugin(Protocol):
    """What every module in corpora/ is."""

    def open_corpus(self, request: Request) -> Corpus:
        """Open the corpus; raises UserError (DATA) for what it cannot do with `request`."""
        ...
