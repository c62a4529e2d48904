"""Folders of matrices in runs/: who works in one, which is the newest, which trained nothing.

A folder without matrix.json that a process has locked is measuring: short runs come first.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.files.lock import NAME as LOCK
from gpt2.files.lock import HeldError, holder, lock_folder
from scripts.study.folder import MatrixFolder
from scripts.study.journal import MAIN, parts
from scripts.study.slurm import shown

#: What a matrix without runs may hold; with anything else it is left alone.
_OURS = {"matrix.json", MAIN, "probes.json", "plans.json", LOCK, "cells", "output", "probe"}


def who(path: Path) -> str:
    """Return who works in the folder of a matrix: a process or tasks of Slurm; "" for nobody."""
    if runner := holder(path):
        return runner
    with suppress(UserError):  # a submission that cannot be read has no tasks that we know of
        if tasks := shown.held(MatrixFolder(path)):
            return f"{len(tasks)} tasks of Slurm"
    return ""


def is_measuring(path: Path) -> bool:
    """Return whether a process makes short runs in this folder, before the first real one."""
    return not _begun(path) and (path / "cells").is_dir() and bool(holder(path))


def newest(runs: Path) -> Path | None:
    """Return the matrix in `runs` that runs or measures, else the one that did last; or None.

    Of several that run it is the one that was written last.
    """
    found = [path for path in runs.glob("*") if _begun(path) or is_measuring(path)]
    return max(found, key=lambda path: (bool(who(path)), last_written(path)), default=None)


def last_written(path: Path) -> float:
    """Return when a matrix was last at work, in seconds since 1970."""
    files = [path / name for name in ("matrix.json", "probes.json", LOCK)] + parts(path)
    files += path.glob("cells/*/metrics.jsonl")
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def is_untrained(path: Path) -> bool:
    """Return whether this is the folder of a matrix of which no run has begun, and nothing else."""
    cells = path / "cells"
    if path.is_symlink() or not cells.is_dir() or any(cells.iterdir()):
        return False
    return {file.name for file in path.iterdir()} <= _OURS


def discard(path: Path) -> None:
    """Remove the folder of a matrix in which nothing was trained; leave any other as it is."""
    with suppress(OSError, HeldError, UserError):  # it is gone, or another process uses it
        if is_untrained(path):
            with lock_folder(path, str(path), "nothing was removed"):
                shutil.rmtree(path)


def _begun(path: Path) -> bool:
    return (path / "matrix.json").is_file()
