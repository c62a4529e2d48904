"""The text files of a folder, in sorted order, and a count of the files skipped."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gpt2.config.errors import Exit, UserError
from gpt2.config.text import counted, shortened
from gpt2.data.sources.text_files import KINDS, BadFileError, kind

_ENDINGS = f"{', '.join(KINDS)}; all but .parquet also with .gz or .zst"


@dataclass
class Found:
    """The text files under a path, and counts of skipped files, folders and links by reason."""

    files: list[Path]
    others: Counter[str] = field(default_factory=Counter)  # by extension
    hidden: int = 0
    repeated: int = 0  # links to folders that are read already
    special: int = 0  # pipes, devices and sockets named like a text file

    def passed_over(self) -> str:
        """Return a description of what is skipped; empty where nothing is."""
        kinds = shortened(sorted(self.others, key=lambda name: (-self.others[name], name)), 3)
        parts = {
            f"{counted(self.others.total(), 'file')} of other kinds ({kinds})": self.others.total(),
            f"{self.hidden:,} hidden": self.hidden,
            f"{counted(self.repeated, 'link')} to a folder read already": self.repeated,
            f"{self.special:,} that are not regular files": self.special,
        }
        return ", ".join(part for part, count in parts.items() if count)


def find(where: Path) -> Found:
    """Return the text files at `where`, a file or a folder, in sorted order.

    Links to files and folders are followed; a folder is read once. Hidden files and folders, and
    files of other kinds, are skipped and counted. Raises UserError (DATA) without a text file, and
    BadFileError for a folder that cannot be read.
    """
    if where.is_dir():
        found = Found([])
        found.files += _walk(where, found, {_identity(where)})
        if not found.files:
            passed = found.passed_over()
            raise _error(
                f"--input {where}: holds no text files ({_ENDINGS})"
                + (f"; passed over: {passed}" if passed else "")
            )
        return found
    if not where.exists():
        raise _error(f"--input {where}: no such file or folder")
    if not where.is_file():
        raise _error(
            f"--input {where}: a pipe or device, and the text is read more than once; write it to a"
            " file first: COMMAND > FILE.txt"
        )
    if kind(where) is None:
        raise _error(
            f"--input {where}: not a text file known by its name ({_ENDINGS}); if it is text, give"
            f" it such a name: {shlex.join(['ln', '-s', where.name, f'{where}.txt'])}"
        )
    return Found([where])


def _walk(folder: Path, found: Found, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield the text files of a folder and those below it; count the others in `found`."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise BadFileError(f"{folder}: cannot be read: {error.strerror}") from error
    below = []
    for name in names:
        path = folder / name
        if name.startswith("."):
            found.hidden += 1
        elif path.is_dir():
            below.append(path)
        elif kind(path) is None:
            found.others[path.suffix or "no ending"] += 1
        elif path.exists() and not path.is_file():
            found.special += 1
        else:
            yield path  # a broken link fails when it is read
    for path in below:
        identity = _identity(path)
        if identity in seen:
            found.repeated += 1
            continue
        seen.add(identity)
        yield from _walk(path, found, seen)


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
