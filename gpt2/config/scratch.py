"""A folder for files that live as long as a call: refused in words where there is room for none."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2.config.errors import UserError

#: What a full disk, a quota and a limit on the size of files (ulimit -f) answer.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def folder() -> Iterator[Path]:
    """Make a temporary folder, removed at the end. Raises UserError where it takes nothing."""
    try:
        made = tempfile.TemporaryDirectory()
    except OSError as error:  # a container that is read-only
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
