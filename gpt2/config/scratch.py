"""A folder for files that live as long as a call: refused in words where there is room for none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2.config.errors import UserError


@contextmanager
def folder() -> Iterator[Path]:
    """Make a temporary folder, removed at the end. Raises UserError where none can be made."""
    try:
        made = tempfile.TemporaryDirectory()
    except OSError as error:  # a container that is read-only, a full disk
        raise UserError(
            f"no temporary folder can be made ({error.strerror or error}): name one that can be "
            "written by the variable TMPDIR, for example TMPDIR=$PWD make"
        ) from error
    with made as path:
        yield Path(path)
