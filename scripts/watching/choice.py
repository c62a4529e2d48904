"""Choose the run or matrix to watch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.files.lock import NAME as LOCK
from gpt2.files.lock import holder
from gpt2.run_dir.latest import meant
from scripts.reports.runs import is_run
from scripts.reports.study import is_matrix
from scripts.study.at_work import is_measuring, last_written, newest, who
from scripts.watching.view import WatchedMatrix, WatchedRun

Watched = WatchedRun | WatchedMatrix


def chosen(run: Path | None, matrix: Path | None, runs: Path) -> Callable[[], Watched]:
    """Return a function that returns the run or the matrix to watch now.

    It is the one that is named; else the one running in `runs` or, if none is, the last one. Raises
    UserError where there is none.
    """
    if run is not None:
        folder = meant(run)
        if not is_run(folder):
            raise UserError(f"RUN={run}: not a run directory: it has no config; see make list-runs")
        named: Watched = WatchedRun(folder)
        return lambda: named
    if matrix is not None:
        if not is_matrix(matrix) and not is_measuring(matrix):
            raise UserError(f"MATRIX={matrix}: not a matrix: it has no matrix.json")
        named = WatchedMatrix(matrix)
        return lambda: named
    return Following(runs)


class Following:
    """The running or last run in `runs`; it does not change while that one runs."""

    def __init__(self, runs: Path) -> None:
        """Find the first one.

        Raises UserError where there is nothing.
        """
        self._runs = runs
        self._watched = self._found()

    def __call__(self) -> Watched:
        """Return what to watch now."""
        if not _at_work(self._watched):
            found = self._found()
            if found.path != self._watched.path:
                self._watched = found
        return self._watched

    def _found(self) -> Watched:
        """Return the running one (of several, the last written), else the last one.

        Raises UserError where there is none.
        """
        found: list[Watched] = []
        if (matrix := newest(self._runs)) is not None:
            found.append(WatchedMatrix(matrix))
        single = [path.parent for path in self._runs.glob("*/config")]
        found += [WatchedRun(path) for path in single if is_run(path) and not path.is_symlink()]
        if not found:
            raise UserError(f"{self._runs} holds nothing to watch yet: 'make' trains a run")
        return max(found, key=lambda one: (_at_work(one), _last_written(one)))


def _at_work(watched: Watched) -> bool:
    """Return whether a process has it open; a finished run's lock is not tried."""
    if isinstance(watched, WatchedMatrix):
        return bool(who(watched.path))
    return not (watched.path / "summary.json").exists() and bool(holder(watched.path))


def _last_written(watched: Watched) -> float:
    if isinstance(watched, WatchedMatrix):
        return last_written(watched.path)
    files = [watched.path / name for name in ("config", "metrics.jsonl", LOCK)]
    return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)
