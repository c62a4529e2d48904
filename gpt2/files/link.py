"""Symbolic links; some file systems (exFAT, cloud drives, some mounts) have none."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def point(link: Path, name: str) -> str:
    """Make `link` point to `name` beside it, atomically; return why that failed, or "".

    An old link that cannot be replaced is removed, since it would point to the wrong place. A file
    or folder that is not a link is left unchanged.
    """
    if link.exists() and not link.is_symlink():
        return "there is a file or folder of that name"
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(name)
        temporary.rename(link)
    except OSError as error:
        for path in (temporary, link):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return error.strerror or str(error)
    return ""
