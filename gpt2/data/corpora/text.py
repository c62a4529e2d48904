"""The user's own text: .txt, .md, .jsonl and .parquet files, plain or packed, or a folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.text import counted
from gpt2.data.corpus import DOCUMENT_END, Corpus, Document, Request
from gpt2.data.sources import parquet_files, text_files, text_folders
from gpt2.data.splits import SPLITS, split_characters, split_of
from gpt2.data.tokenizer import MAX_CHARACTERS, CharTokenizer, Gpt2Tokenizer, Tokenizer

TOKENIZERS = ("gpt2", "char")
NEEDS_INPUT = True
_HELD_OUT_ONE_IN = 10
_WITH_COLUMNS = (".jsonl", ".parquet")


def open_corpus(request: Request) -> Corpus:
    """Open --input for the tokenizer gpt2 (the default) or char.

    Raises UserError (DATA).
    """
    if request.input is None:
        raise UserError("--dataset text needs --input FILE_OR_FOLDER", code=Exit.DATA)
    if request.tokenizer not in (None, *TOKENIZERS):
        raise UserError(
            f"--tokenizer {request.tokenizer}: a text can be gpt2 or char", code=Exit.DATA
        )
    tokenizer = request.tokenizer or TOKENIZERS[0]
    if request.end_of_text and tokenizer != Gpt2Tokenizer.name:
        raise UserError(
            f"--end-of-text token: --tokenizer {tokenizer} has no such token; leave it out, or use"
            f" --tokenizer {Gpt2Tokenizer.name}",
            code=Exit.DATA,
        )
    found = text_folders.find(request.input)
    files = found.files
    if passed := found.passed_over():
        request.say(
            f"{request.input}: reading {counted(len(files), 'file')}; passed over: {passed}"
        )
    left_out: dict[str, Any] = {}
    if request.skip_bad:
        files, left_out = _without_bad(request.input, files, request)
    return TextCorpus(request.input, files, tokenizer, request, left_out)


class TextCorpus:
    """Documents from files.

    A .txt or .md file is one document; its last tenth is held out, first half for validation,
    second half for test. A line of .jsonl or a row of .parquet is one document. A tenth of these
    are held out, chosen by a hash of their text: a document stays in its split when others are
    appended or reordered. `left_out` is the entry in `source` about bad files, which are not in
    `files`.
    """

    separated = True
    splits = SPLITS

    def __init__(
        self,
        where: Path,
        files: list[Path],
        tokenizer: str,
        request: Request,
        left_out: dict[str, Any],
    ) -> None:
        column = request.text_column
        self._files = files
        self._tokenizer = tokenizer
        self._end_of_text = request.end_of_text
        self._column = column or "text"
        self._counts: dict[Path, int] = {}
        with_columns = [path for path in self._files if text_files.kind(path) in _WITH_COLUMNS]
        if column is not None and not with_columns:
            raise UserError(
                f"--text-column {column}: there is no {' or '.join(_WITH_COLUMNS)} in {where}, and"
                " other files have no columns; leave it out",
                code=Exit.DATA,
            )
        self._footers = {
            path: parquet_files.footer_of(path, self._column)
            for path in with_columns
            if text_files.kind(path) == ".parquet"
        }
        self.source: dict[str, Any] = {
            "address": str(where.resolve()),
            **text_files.fingerprint(self._files),
            **({"text_column": self._column} if with_columns else {}),
            **({"end_of_text": "token"} if self._end_of_text else {}),
            **({"left_out": left_out} if left_out else {}),
            "licence": "the user's own text",
        }

    @property
    def text_bytes(self) -> int | None:
        """Return the bytes of the text, or somewhat more; None if any file is packed."""
        if any(text_files.is_packed(path) for path in self._files):
            return None
        footers = self._footers
        return sum(
            footers[path].text_bytes if path in footers else path.stat().st_size
            for path in self._files
        )

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer; for char, this reads the whole text to find its characters."""
        if self._tokenizer == Gpt2Tokenizer.name:
            return Gpt2Tokenizer(special=self._end_of_text)
        known = {DOCUMENT_END}
        for path in self._files:
            for piece in self._text(path):
                known.update(piece)
            if len(known) > MAX_CHARACTERS:
                break  # CharTokenizer raises the error
        return CharTokenizer(known)

    def documents(self, skip: int = 0) -> Iterator[Document]:
        """Yield the documents, file by file in sorted order.

        A skipped document costs reading its line; skipped files and row groups cost nothing.
        """
        for path in self._files:
            if path in self._footers:
                rows = self._footers[path].rows
                if skip < rows:
                    yield from self._rows(path, skip)
                skip = max(0, skip - rows)
                continue
            for make in self._unread(path):
                if skip:
                    skip -= 1
                else:
                    yield make()

    def _rows(self, path: Path, skip: int) -> Iterator[Document]:
        for row, text in parquet_files.texts_of(path, self._column, skip):
            yield _document(f"{path}, row {row:,}", text)

    def _unread(self, path: Path) -> Iterator[Callable[[], Document]]:
        """Yield a function for each document; only calling it parses and counts the document."""
        if text_files.kind(path) == ".jsonl":
            for place, parse in text_files.unread_records(path, self._column):
                yield partial(_line, place, parse)
        else:
            for split in self.splits:
                yield partial(self._part, path, split)

    def _text(self, path: Path) -> Iterator[str]:
        """Yield all text of a file, in pieces."""
        return _all_text(path, self._column)

    def _part(self, path: Path, split: str) -> Document:
        return Document(split, self._pieces(path, split), f"{path} ({split} part)")

    def _pieces(self, path: Path, split: str) -> Iterator[str]:
        """Yield the pieces of the part of a file that is `split`."""
        if path not in self._counts:
            self._counts[path] = sum(map(len, text_files.pieces(path)))
        start, end = split_characters(self._counts[path])[split]
        for piece in text_files.pieces(path):
            if part := piece[start:end]:
                yield part
            start, end = max(0, start - len(piece)), end - len(piece)
            if end <= 0:
                return


def _all_text(path: Path, column: str) -> Iterator[str]:
    """Yield all text of a file, in pieces."""
    kind = text_files.kind(path)
    if kind == ".parquet":
        return (text for _, text in parquet_files.texts_of(path, column))
    if kind == ".jsonl":
        return text_files.records(path, column)
    return text_files.pieces(path)


def _without_bad(
    where: Path, files: list[Path], request: Request
) -> tuple[list[Path], dict[str, Any]]:
    """Return the files that can be read to their end, and the entry in `source` about the others.

    Each file is read once. Raises UserError (DATA) when none is left.
    """
    good, bad = [], {}
    for path in files:
        try:
            if text_files.kind(path) == ".parquet":
                parquet_files.footer_of(path, request.text_column or "text")
            for _ in _all_text(path, request.text_column or "text"):
                pass
            good.append(path)
        except text_files.BadFileError as error:
            bad[path] = str(error)
    if not bad:
        return good, {}
    what = f"{counted(len(bad), 'file')} of {len(files):,}"
    named = "; ".join([*bad.values()][:3]) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")
    if not good:
        raise UserError(f"--input {where}: all files are bad: {named}", code=Exit.DATA)
    request.say(f"--bad-files skip: left out {what}: {named}")
    return good, {"files": len(bad), "bytes": sum(map(text_files.size, bad)), "names": _names(bad)}


def _names(paths: Iterable[Path]) -> list[str]:
    """Return the first hundred paths, as JSON can hold them."""
    return [str(path).encode(errors="replace").decode() for path in itertools.islice(paths, 100)]


def _line(place: str, parse: Callable[[], str]) -> Document:
    return _document(place, parse())


def _document(place: str, text: str) -> Document:
    return Document(split_of(text, _HELD_OUT_ONE_IN), [text], place)
