"""Files and folders that appear whole: written aside, synced, renamed.

A reader, or a restart after a kill or a power cut, finds what was there before or what was written,
never a part of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

#: Errors by which a file system says that it has no fsync for folders.
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


def replace_file(path: Path, text: str, errors: str = "surrogateescape") -> None:
    """Replace the content of a file. Raises OSError; the old file is then as it was.

    `errors` says what becomes of characters that UTF-8 has not: a path in the text may hold bytes
    that are no UTF-8, and by default they stay what they are.
    """
    replace_files(path.parent, {path.name: text}, errors)


def replace_files(folder: Path, texts: Mapping[str, str], errors: str) -> None:
    """Replace several files by name, all of them or none. Raises OSError."""
    aside = {name: folder / f".tmp-{name}-{os.getpid()}" for name in texts}
    try:
        for name, text in texts.items():
            with aside[name].open("w", encoding="utf-8", errors=errors, newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for name in texts:
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
        for name in texts:
            aside[name].rename(folder / name)
    except OSError:
        for left in aside.values():
            with suppress(OSError):  # a disk that became read-only takes nothing away, either
                left.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def write_file(path: Path, data: bytes) -> tuple[int, str]:
    """Write a new file, synced; return its size in bytes and its SHA-256. Raises OSError."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return len(data), hashlib.sha256(data).hexdigest()


def create_file(path: Path, text: str) -> bool:
    """Create a file with its whole content, unless it is there; return whether it was created.

    Of several processes, also on several machines that share the folder, one creates it. Raises
    OSError.
    """
    aside = path.with_name(f".tmp-{path.name}-{platform.node()}-{os.getpid()}")
    write_file(aside, text.encode())
    try:
        os.link(aside, path)
    except FileExistsError:
        # NFS repeats a request whose answer was lost: then the file that is there is ours.
        return aside.stat().st_nlink > 1
    except OSError as error:
        if error.errno not in (*_CANNOT, errno.EPERM, errno.EMLINK):
            raise
        return _create_directly(path, text)  # no hard links here
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def _create_directly(path: Path, text: str) -> bool:
    """Create a file that readers may find empty for an instant."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `final`, which takes that name at the end, or goes.

    What killed writers of the same name left behind goes, too. Raises OSError, also when `final`
    is there and not empty.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.iterdir():
        writer = re.fullmatch(rf"\.tmp-{re.escape(final.name)}-([0-9]+)", left.name)
        if writer and not _is_running(int(writer[1])):
            shutil.rmtree(left, ignore_errors=True)
    temporary = final.parent / f".tmp-{final.name}-{os.getpid()}"
    try:
        temporary.mkdir()
        yield temporary
        sync_folder(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(final.parent)


@contextmanager
def replaced_folder(final: Path) -> Iterator[Path]:
    """Yield a new hidden folder that takes the place of `final`, which stays until it is whole.

    Raises OSError; what was there is then there still.
    """
    old = final.parent / f".old-{final.name}-{os.getpid()}"
    try:
        with new_folder(final) as temporary:
            yield temporary
            if final.exists():
                final.rename(old)
    except BaseException:
        if old.exists():
            old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether a process is running, and is not this one."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` outlast a power cut. Raises OSError.

    Some network and cloud file systems cannot do that for a folder; there its names are as safe as
    the file system makes them.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(handle)
