"""What a data folder needs of the disk: room, its lock, and writes that outlast a power cut."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2.config.errors import Exit, UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel releases however this process ends.

    Raises UserError (DATA) where another process holds it.
    """
    with (folder / ".lock").open("w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder} is being prepared by another process: wait for it", code=Exit.DATA
            ) from None
        except OSError as error:
            raise UserError(
                f"{folder}: its file system locks no files ({error.strerror}), and two preparations"
                " would not see each other: choose a --data-dir on a local disk",
                code=Exit.DATA,
            ) from error
        yield


def check_room(folder: Path, needed: int) -> None:
    """Check that `needed` bytes are free where `folder` lies; UserError (DATA) if they are not."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the tokens of this corpus take about {needed / 1e6:,.1f} MB, and"
            f" {free / 1e6:,.1f} MB are free there: make room, choose another --data-dir, or stop"
            " early with --max-tokens",
            code=Exit.DATA,
        )


def replace_file(path: Path, content: str) -> None:
    """Write a file so that there is the old one or the new one, whole, at any instant: OSError."""
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make renames in `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
