"""Write files and folders atomically: write aside, sync, rename.

After a kill or a power cut a reader finds the old content or the new, never a part of it.
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

#: Errors of file systems that cannot fsync folders.
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


def replace_file(path: Path, text: str, errors: str = "surrogateescape") -> None:
    """Replace the content of a file atomically.

    `errors` is the encoder's error handler: a path in the text may hold bytes that are not UTF-8,
    and by default they stay. Raises OSError; the old file is then unchanged.
    """
    replace_files(path.parent, {path.name: text}, errors)


def replace_files(folder: Path, texts: Mapping[str, str], errors: str) -> None:
    """Replace several files in `folder`, all of them or none.

    Raises OSError.
    """
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
            with suppress(OSError):  # a disk that became read-only lets nothing be removed, either
                left.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def write_file(path: Path, data: bytes) -> tuple[int, str]:
    """Write a new file, synced; return its size in bytes and its SHA-256.

    Raises OSError.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return len(data), hashlib.sha256(data).hexdigest()


def create_file(path: Path, text: str) -> bool:
    """Create a file with its whole content, unless it exists; return whether it was created.

    Of several processes, also on several machines that share the folder, only one creates it.
    Raises OSError.
    """
    aside = path.with_name(f".tmp-{path.name}-{platform.node()}-{os.getpid()}")
    write_file(aside, text.encode())
    try:
        os.link(aside, path)
    except FileExistsError:
        # NFS repeats a request whose answer was lost: then the existing file is ours.
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
    """Yield a new hidden folder that is renamed to `final` at the end, or removed on an error.

    Folders that killed writers of the same name left behind are removed, too. Raises OSError, also
    when `final` exists and is not empty.
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
    """Yield a new hidden folder that replaces `final` when it is complete.

    Raises OSError; the old folder is then unchanged.
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
    """Return whether a process other than this one is running."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process
        pass
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut.

    Some network and cloud file systems cannot sync a folder; there this does nothing. Raises
    OSError.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(handle)
