"""Text files as streams of text: plain or packed, in pieces, with errors that name the place."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import importlib
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from gpt2.config.errors import Exit, UserError
from gpt2.config.text import pip_install, shortened
from gpt2.files.wrong_downloads import what_it_is

KINDS = (".txt", ".md", ".jsonl", ".parquet")
PACKED_KINDS = (".txt", ".md", ".jsonl")
PACKINGS = ("", ".gz", ".zst")
_PIECE = 1 << 18  # bytes
_PACKED = 1 << 10  # bytes of a .zst read at once; they may unpack to thirty thousand times as many
_MOST_EXPANSION = 200  # times a packed file's size; text rarely packs below a twentieth
_ALWAYS_UNPACKED = 16 << 20  # bytes up to which any expansion is accepted
_LONGEST_LINE = 256 << 20  # bytes of one .jsonl line


class BadFileError(UserError):
    """A file that cannot be read as text: unreadable, damaged, not UTF-8, or not JSON."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=Exit.DATA)


def kind(path: Path) -> str | None:
    """Return a file's kind (one of KINDS) by its name, packed or not; None for others."""
    name = path.name.lower()
    for ending in KINDS:
        packings = PACKINGS if ending in PACKED_KINDS else ("",)
        if name.endswith(tuple(ending + packing for packing in packings)):
            return ending
    return None


def is_packed(path: Path) -> bool:
    """Return whether a file is packed, so that its size does not tell how much text it holds."""
    return path.suffix.lower() in PACKINGS


def size(path: Path) -> int:
    """Return the bytes of a file; 0 where unknown, as for a broken link."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def fingerprint(files: list[Path]) -> dict[str, Any]:
    """Return the number of files, their bytes, and a SHA-256 over their names and contents."""
    total, both = 0, hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                one = hashlib.file_digest(file, "sha256").hexdigest()
                total += file.tell()
        except OSError as error:
            raise BadFileError(f"{path}: cannot be read: {error.strerror}") from error
        both.update(f"{path.name}\n{one}\n".encode(errors="surrogateescape"))
    return {"files": len(files), "bytes": total, "sha256": both.hexdigest()}


def pieces(path: Path) -> Iterator[str]:
    """Yield the text of a file in pieces, line ends unchanged, without a byte order mark.

    Raises BadFileError naming the file, and the byte where it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, first = 0, True
    for chunk in itertools.chain(_chunks(path), [b""]):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            place = offset - held + error.start
            raise BadFileError(f"{path}: byte {place:,} is not UTF-8; convert the file") from error
        offset += len(chunk)
        if text:
            yield text.removeprefix("\ufeff") if first else text
            first = False


def records(path: Path, column: str) -> Iterator[str]:
    """Yield the value of key `column` in each line of a .jsonl file.

    Raises BadFileError, or UserError (DATA) for a missing key, naming file and line.
    """
    for _, parse in unread_records(path, column):
        yield parse()


def unread_records(path: Path, column: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield "FILE:LINE" and a function that parses the line, for each non-blank .jsonl line."""
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            place = f"{path}:{number}"
            yield place, partial(_record, line, column, place)


def check_expansion(place: Path | str, unpacked: int, packed: int) -> None:
    """Check that a file of `packed` bytes has not become too many `unpacked` bytes.

    Memory stays bounded in any case, but the disk would fill. Raises BadFileError.
    """
    if unpacked > max(_ALWAYS_UNPACKED, _MOST_EXPANSION * packed):
        raise BadFileError(
            f"{place}: {packed:,} bytes that unpack to more than {_MOST_EXPANSION} times as many,"
            " which text hardly does; if it is right, unpack it and give what comes out"
        )


def _record(line: bytes, column: str, place: str) -> str:
    way_out = (
        f'a line is an object with the document under the key "{column}" (--text-column names'
        " another)"
    )
    if line.lstrip().startswith(b"["):
        way_out += "; a file that is one JSON array is converted by: jq -c '.[]' FILE > NEW.jsonl"
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadFileError(f"{place}: not UTF-8 at byte {error.start:,} of the line") from error
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{place}: not JSON ({error}); {way_out}") from error
    if not isinstance(value, dict):
        raise _error(f"{place}: no text, and no object; {way_out}")
    if not isinstance(value.get(column), str):
        keys = [str(key) for key, part in value.items() if isinstance(part, str)]
        there = f"its keys with text are {shortened(keys, 8)}" if keys else "no key holds text"
        raise _error(f"{place}: no text under {column!r}: {there}; {way_out}")
    text: str = value[column]
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadFileError(
            f"{place}: half a surrogate pair at character {error.start:,}"
        ) from error
    return text


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked; UserError (DATA) at an endless one."""
    held: list[bytes] = []
    size = 0
    for chunk in _chunks(path):
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            yield b"".join([*held, line])
            held, size = [], 0
        held.append(rest)
        size += len(rest)
        if size > _LONGEST_LINE:
            raise BadFileError(
                f"{path}: a line of more than {_LONGEST_LINE:,} bytes; is this .jsonl?"
            )
    yield b"".join(held)


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, unpacked, in non-empty chunks; UserError (DATA) names the file."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".gz":
                with gzip.open(file, "rb") as unpacked:
                    yield from _ending(path, iter(lambda: unpacked.read(_PIECE), b""))
            elif path.suffix.lower() == ".zst":
                yield from _ending(path, filter(None, _unpack_zst(file)))
            else:
                yield from iter(lambda: file.read(_PIECE), b"")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        found = what_it_is(path) or f"damaged or cut off ({error})"
        raise BadFileError(f"{path}: {found}") from error
    except OSError as error:
        raise BadFileError(f"{path}: cannot be read: {error.strerror}") from error


def _ending(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    packed, unpacked = path.stat().st_size, 0
    for chunk in chunks:
        unpacked += len(chunk)
        check_expansion(path, unpacked, packed)
        yield chunk


def _unpack_zst(file: BinaryIO) -> Iterator[bytes]:
    """Unpack frame after frame; EOFError where the last is cut off or damaged."""
    # Not stream_reader: it accepts a file that is cut off.
    try:
        zstandard = importlib.import_module("zstandard")
    except ModuleNotFoundError as error:
        raise _error(
            f"{file.name}: needs the Python package 'zstandard': {pip_install('zstandard')}"
        ) from error
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    while chunk := file.read(_PACKED):
        while chunk:
            if unpacker.eof:
                unpacker = zstandard.ZstdDecompressor().decompressobj()
            try:
                yield unpacker.decompress(chunk)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from error
            chunk = unpacker.unused_data
    if not unpacker.eof:
        raise EOFError("the last frame has no end")


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
