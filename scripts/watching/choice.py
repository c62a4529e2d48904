"""Which run or matrix is watched."""

from __future__ import annotations

from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.run_dir.latest import meant
from scripts.reports.runs import is_run
from scripts.reports.study import is_matrix, newest
from scripts.watching.view import WatchedMatrix, WatchedRun


def chosen(run: Path | None, matrix: Path | None, runs: Path) -> WatchedRun | WatchedMatrix:
    """Return the run or the matrix that is named, else what was last at work in `runs`.

    Raises UserError where there is none.
    """
    if run is not None:
        folder = meant(run)
        if not is_run(folder):
            raise UserError(f"RUN={run}: is no run directory: it has no config; see make list-runs")
        return WatchedRun(folder)
    if matrix is not None:
        if not is_matrix(matrix):
            raise UserError(f"MATRIX={matrix}: is no matrix: it has no matrix.json")
        return WatchedMatrix(matrix)
    found: list[WatchedRun | WatchedMatrix] = []
    if (folder_of_matrix := newest(runs)) is not None:
        found.append(WatchedMatrix(folder_of_matrix))
    single = [path.parent for path in runs.glob("*/config")]
    single = [path for path in single if is_run(path) and not path.is_symlink()]
    if single:
        found.append(WatchedRun(max(single, key=_last_written)))
    if not found:
        raise UserError(f"{runs} holds nothing to watch yet: 'make' trains a run")
    return max(found, key=lambda one: _last_written(one.path))


def _last_written(folder: Path) -> float:
    """Return when a run, or any cell of a matrix, was last written."""
    files = [folder / name for name in ("config", "metrics.jsonl", "matrix.json", "journal.jsonl")]
    files += folder.glob("cells/*/metrics.jsonl")
    return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)
