"""File locks, which the kernel releases however the process ends."""

from __future__ import annotations

import fcntl
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from gpt2.config.errors import Exit, UserError

#: The file that a process locks in the folder it uses.
NAME = ".lock"


class HeldError(Exception):
    """Another process holds the lock; `holder` is what it wrote about itself."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"in use by {holder}")
        self.holder = holder


def lock_folder(folder: Path, subject: str, advice: str, code: Exit = Exit.CONFIG) -> TextIO:
    """Lock `folder` for this process; return the lock file, whose closing releases it.

    Raises HeldError; OSError where the file cannot be opened; UserError with `code`, naming
    `subject` and ending with `advice`, where the file system has no locks.
    """
    file = (folder / NAME).open("a+", encoding="utf-8", errors="surrogateescape")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            raise HeldError(_holder(file)) from None
    except OSError as error:
        file.close()
        raise UserError(
            f"{subject}: its file system locks no files ({error.strerror}), and {advice}", code=code
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    return file


def holder(folder: Path) -> str:
    """Return who holds the lock of a folder: "process 123 on host"; empty where it is free."""
    with (
        suppress(OSError),  # no lock file, or no locks on its file system
        (folder / NAME).open("r+", encoding="utf-8", errors="surrogateescape") as file,
    ):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
    return ""


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "another process"
