"""Symbolic links, which some file systems (exFAT, cloud drives, some mounts) do not have."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def point(link: Path, name: str) -> str:
    """Make `link` lead to `name` beside it, in one step; return why it could not be, or nothing.

    A link that was there and cannot be replaced is removed, since it would lead to something else
    than was meant; what is no link is left alone.
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
