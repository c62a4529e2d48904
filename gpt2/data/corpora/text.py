"""One's own text: files of .txt, .md and .jsonl, plain or packed, alone or in a folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.data import text_files
from gpt2.data.corpus import (
    DOCUMENT_END,
    Corpus,
    Document,
    Request,
    is_validation,
    train_characters,
)
from gpt2.data.tokenizer import MAX_CHARACTERS, CharTokenizer, Gpt2Tokenizer, Tokenizer

_VALIDATION_ONE_IN = 10


def open_corpus(request: Request) -> Corpus:
    """Open --input for the tokenizer gpt2 (the default) or char; UserError (DATA) if it cannot."""
    if request.input is None:
        raise UserError("--dataset text needs --input FILE_OR_FOLDER", code=Exit.DATA)
    if request.tokenizer not in (None, Gpt2Tokenizer.name, CharTokenizer.name):
        raise UserError(
            f"--tokenizer {request.tokenizer}: a text can be gpt2 or char", code=Exit.DATA
        )
    return TextCorpus(request.input, request.tokenizer or Gpt2Tokenizer.name)


class TextCorpus:
    """Documents from files.

    A .txt or .md file is one document, the last tenth of which is for validation. A line of .jsonl
    is one, and a tenth of the lines, picked by a hash of their text, are for validation: a line
    stays in its split whatever is appended or reordered.
    """

    separated = True

    def __init__(self, where: Path, tokenizer: str) -> None:
        self._files = text_files.find(where)
        self._tokenizer = tokenizer
        self._counts: dict[Path, int] = {}
        self.source: dict[str, Any] = {
            "address": str(where.resolve()),
            **text_files.fingerprint(self._files),
            "licence": "the user's own text",
        }

    @property
    def text_bytes(self) -> int | None:
        """Bytes of the files, which are at least those of the text; None if any is packed."""
        packed = any(text_files.is_packed(path) for path in self._files)
        return None if packed else int(self.source["bytes"])

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer; for char, a pass over the whole text finds its characters."""
        if self._tokenizer == Gpt2Tokenizer.name:
            return Gpt2Tokenizer()
        known = {DOCUMENT_END}
        for path in self._files:
            for piece in _text(path):
                known.update(piece)
            if len(known) > MAX_CHARACTERS:
                break  # CharTokenizer says what is wrong
        return CharTokenizer(known)

    def documents(self, skip: int = 0) -> Iterator[Document]:
        """Yield the documents, file by file in sorted order.

        Those passed over cost the reading of their line, or nothing if they are a whole file.
        """
        for make in itertools.islice(self._unread(), skip, None):
            yield make()

    def _unread(self) -> Iterator[Callable[[], Document]]:
        """Yield what makes each document, which parses and counts nothing before it is called."""
        for path in self._files:
            if text_files.kind(path) == ".jsonl":
                for place, parse in text_files.unread_records(path):
                    yield partial(_line, place, parse)
            else:
                for split in ("train", "val"):
                    yield partial(self._part, path, split)

    def _part(self, path: Path, split: str) -> Document:
        return Document(split, self._pieces(path, split), f"{path} ({split} part)")

    def _pieces(self, path: Path, split: str) -> Iterator[str]:
        """Yield the pieces of a file's start (train) or end (val)."""
        if path not in self._counts:
            self._counts[path] = sum(map(len, text_files.pieces(path)))
        left = train_characters(self._counts[path])
        for piece in text_files.pieces(path):
            part = piece[:left] if split == "train" else piece[left:]
            left = max(0, left - len(piece))
            if part:
                yield part
            elif split == "train":
                return


def _line(place: str, parse: Callable[[], str]) -> Document:
    text = parse()
    split = "val" if is_validation(text, _VALIDATION_ONE_IN) else "train"
    return Document(split, [text], place)


def _text(path: Path) -> Iterator[str]:
    read = text_files.records if text_files.kind(path) == ".jsonl" else text_files.pieces
    return read(path)
