"""A temporary folder; a clear error where the disk has no room."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2.config.errors import UserError

#: Errors of a full disk, a quota and a limit on file sizes (ulimit -f).
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def folder() -> Iterator[Path]:
    """Make a temporary folder, removed at the end.

    Raises UserError where nothing can be written.
    """
    try:
        made = tempfile.TemporaryDirectory()
    except OSError as error:  # a read-only container
        raise _refused(error) from error
    with made as path:
        try:
            yield Path(path)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise _refused(error) from error
            raise


def _refused(error: OSError) -> UserError:
    return UserError(
        f"temporary files cannot be written ({error.strerror or error}): name a folder that takes "
        "them by the variable TMPDIR, for example TMPDIR=$PWD make, or make room in it"
    )
