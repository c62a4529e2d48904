"""The interface of the plug-ins in corpora/: documents, their tokenizer and their source."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt2.data.splits import SPLITS, split_characters
from gpt2.data.tokenizer import Tokenizer

DOCUMENT_END = "\n"  # ends a document if the tokenizer has no end-of-text


@dataclass(frozen=True)
class Request:
    """The options that a corpus is opened with.

    input: --input.
    tokenizer: --tokenizer (None: the corpus's own).
    downloads: the folder that keeps downloads, so that they happen once.
    text_column: --text-column, for files with columns or keys (None: "text").
    skip_bad: --bad-files skip.
    end_of_text: --end-of-text token.
    say: called with lines for the user.
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
    """A document of one split of a corpus, in pieces of text of any length.

    Read all `pieces` before you ask for the next document. `name` says where the document is (a
    file, or a line of one), for errors.
    """

    split: str
    pieces: Iterable[str]
    name: str = "a document"


class Corpus(Protocol):
    """A text in splits, read once and in pieces: no document need ever be whole in memory.

    separated: the corpus consists of documents, each to be ended by end-of-text (by a newline,
        where the tokenizer has none). False: it is one text.
    splits: "train", "val" and any others, in the order of meta.json. Only the first two must have
        text: a short corpus may have nothing left for "test".
    source: JSON about the text's origin and content, with at least `address` and, once all is read,
        `sha256`. Its value before reading identifies the corpus: an interrupted preparation resumes
        only where it is the same.
    """

    @property
    def separated(self) -> bool:
        """Return whether the corpus consists of documents."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of its splits, in lower case: each becomes a file of that name."""
        ...

    @property
    def source(self) -> dict[str, Any]:
        """Return where the text came from, for meta.json; reading may complete it."""
        ...

    @property
    def text_bytes(self) -> int | None:
        """Return the UTF-8 bytes of the whole text, or somewhat more; None if unknown."""
        ...

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer; it knows every character of the text."""
        ...

    def documents(self, skip: int = 0) -> Iterator[Document]:
        """Yield the documents of all splits in one pass, always in the same order.

        The first `skip` documents are skipped, as cheaply as the corpus can: an interrupted
        preparation resumes there. Empty documents may occur. Raises UserError (DATA) that names a
        file it cannot read.
        """
        ...


class WholeText:
    """A corpus of one text that fits in memory; its last tenth is validation and test."""

    separated = False
    splits = SPLITS

    def __init__(self, text: str, source: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.source = source
        self._tokenizer = tokenizer
        self._text = text

    @property
    def text_bytes(self) -> int:
        """Return the UTF-8 bytes of the text."""
        return len(self._text.encode())

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that the corpus was opened with."""
        return self._tokenizer

    def documents(self, skip: int = 0) -> Iterator[Document]:
        """Yield the training part, then those for validation and test."""
        name = str(self.source.get("address", "the text"))
        parts = split_characters(len(self._text))
        for split, (start, end) in itertools.islice(parts.items(), skip, None):
            yield Document(split, [self._text[start:end]], name)


class CorpusPlugin(Protocol):
    """The contents of a module in corpora/; its constants are literals (gpt2.data.declaration).

    It may also have check_input(path), which raises UserError where --input is not this corpus.
    """

    TOKENIZERS: tuple[str, ...]

    def open_corpus(self, request: Request) -> Corpus:
        """Open the corpus.

        Raises UserError (DATA) if it cannot meet `request`.
        """
        ...
