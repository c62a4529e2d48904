"""Detect changes of token files while a run reads them.

If a mapped file is cut short, reading a missing page kills the process (SIGBUS). If it is
overwritten, the run trains on other tokens than it recorded.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from gpt2.config.errors import Exit, UserError
from gpt2.data import hash_cache


@dataclass(frozen=True)
class Opened:
    """A file as opened: its ids, its SHA-256, and the properties that show a change."""

    path: Path
    tokens: int
    sha256: str
    state: dict[str, int]


def opened(path: Path, tokens: int, sha256: str) -> Opened:
    """Return a file in its present state.

    Raises OSError.
    """
    return Opened(path, tokens, sha256, hash_cache.state(path))


class WatchedFiles:
    """Files of ids that are read as one array; no files where ids are in memory. Thread-safe."""

    def __init__(self, files: Sequence[Opened] = ()) -> None:
        self._files = list(files)
        self._ends = list(itertools.accumulate(file.tokens for file in files))
        self._lock = Lock()

    def check(self, starts: Iterable[int], length: int) -> None:
        """Check the files of the `length` ids from each of `starts` on, before they are read.

        Costs one stat() for each such file. A file with other times or another inode is hashed
        again; the same content is no change. Raises UserError (DATA) naming the file.
        """
        if len(self._files) < 2:
            for index in range(len(self._files)):
                self._check(index)
            return
        places = {place for start in starts for place in (start, start + length - 1)}
        last = len(self._files) - 1
        for index in {min(bisect.bisect_right(self._ends, place), last) for place in places}:
            self._check(index)

    def _check(self, index: int) -> None:
        file = self._files[index]
        try:
            now = hash_cache.state(file.path)
            if now == file.state:
                return
            with self._lock:  # only one thread looks into the file
                file = self._files[index]
                wrong = "" if now == file.state else _difference(file, now)
                if not wrong:
                    self._files[index] = replace(file, state=now)
        except OSError as error:
            wrong = f"it cannot be read ({error.strerror})"
        if wrong:
            raise UserError(
                f"{file.path} has changed while it was in use: {wrong}; put it back as it was",
                code=Exit.DATA,
                everywhere=False,
            )


def _difference(file: Opened, now: dict[str, int]) -> str:
    """Return what changed in a file; empty where its content is the same."""
    if now["size"] != file.state["size"]:
        return f"it has {now['size']:,} bytes instead of {file.state['size']:,}"
    found = sha256_of(file.path)
    return f"its SHA-256 is {found}, not {file.sha256}" if found != file.sha256 else ""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises OSError.
    """
    with path.open("rb") as opened_file:
        return hashlib.file_digest(opened_file, "sha256").hexdigest()
