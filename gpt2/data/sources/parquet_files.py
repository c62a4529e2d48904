"""Parquet files as streams of text: one column, a bounded batch of rows at a time."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.text import pip_install
from gpt2.data.sources import text_files
from gpt2.files.wrong_downloads import what_it_is

ROWS = 64  # decoded together; about 256 kB of web pages
_BUFFER = 1 << 20  # bytes of a column read at once


@dataclass(frozen=True)
class Footer:
    """From a file's footer: its rows, and the bytes of its text column."""

    rows: int
    text_bytes: int


def read_footer(file: Any, place: str, column: str) -> Footer:
    """Read the footer of an open parquet file; `place` names the file.

    Call it within reading(), which reports damaged files. Raises UserError (DATA) when `column`
    holds no text, naming the columns.
    """
    opened = _parquet().ParquetFile(file)
    schema, groups = opened.schema_arrow, opened.metadata
    columns = [f"{field.name} ({field.type})" for field in schema]
    if column not in schema.names:
        raise _error(
            f"{place} has no column {column!r}: its columns are {', '.join(columns)}; say which"
            " holds the documents with --text-column NAME"
        )
    if not _is_text(schema.field(column).type):
        raise _error(
            f"{place}: column {column!r} holds no text: the columns are {', '.join(columns)}; say"
            " which holds the documents with --text-column NAME"
        )
    chunks = [
        groups.row_group(group).column(index)
        for group in range(groups.num_row_groups)
        for index in range(groups.num_columns)
    ]
    sizes = [chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column]
    return Footer(groups.num_rows, sum(sizes))


def footer_of(path: Path, column: str) -> Footer:
    """Read the footer of the file at `path`; UserError (DATA) names it and the problem."""
    with open_file(path) as file, reading(str(path)):
        return read_footer(file, str(path), column)


def texts_of(path: Path, column: str, skip: int = 0) -> Iterator[tuple[int, str]]:
    """Yield (row, text) of the file at `path`, as texts() does; UserError (DATA) names it."""
    with open_file(path) as file, reading(str(path)):
        yield from texts(file, str(path), column, skip)


def texts(file: Any, place: str, column: str, skip: int = 0) -> Iterator[tuple[int, str]]:
    """Yield (row, text) of each row of an open file from row `skip` on; a null is empty text.

    Earlier row groups are not read. Call it within reading(), which reports damaged files. Raises
    UserError (DATA) for a row that is not UTF-8 and for a file that unpacks to too much.
    """
    packed, unpacked, row = file.seek(0, os.SEEK_END), 0, 0
    # By default, Arrow reads ahead the columns of all requested row groups and keeps them. Its
    # threads can abort the process at its end.
    opened = _parquet().ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
    for group in range(opened.metadata.num_row_groups):
        rows = opened.metadata.row_group(group).num_rows
        if row + rows <= skip:
            row += rows
            continue
        for batch in opened.iter_batches(
            ROWS, row_groups=[group], columns=[column], use_threads=False
        ):
            for text in strings(batch.column(0), place, row):
                if row >= skip:
                    yield row, text
                row += 1
                unpacked += len(text)
            text_files.check_expansion(place, unpacked, packed)


def strings(values: Any, place: str, first: int) -> list[str]:
    """Return an Arrow column as text; UserError (DATA) names a row that is not UTF-8."""
    try:
        return [text or "" for text in values.to_pylist()]
    except UnicodeDecodeError:
        for row, value in enumerate(values, start=first):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise text_files.BadFileError(
                    f"{place}: row {row:,} is not UTF-8 at byte {error.start:,} of its text; write"
                    " the file without it"
                ) from error
        raise


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open a file; UserError (DATA) says why it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise text_files.BadFileError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        yield file


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Turn Arrow's errors about a damaged file into a UserError (DATA) that names it."""
    arrow = library("pyarrow", place)
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        # Arrow's messages have several lines.
        said = " ".join(str(error).split())[:200]
        found = what_it_is(Path(place)) or f"damaged, cut off or not parquet ({said}); get it again"
        raise text_files.BadFileError(f"{place}: {found}") from error


def library(name: str, place: str) -> Any:
    """Import an optional package; UserError (DATA) says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _error(
            f"{place} needs the Python package {error.name!r}: {pip_install(name)}"
        ) from error


def _parquet() -> Any:
    return importlib.import_module("pyarrow.parquet")


def _is_text(kind: Any) -> bool:
    types = importlib.import_module("pyarrow.types")
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
