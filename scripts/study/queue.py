"""The queue of cells: what is left, in order, and only at the chosen learning rates."""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Callable, Iterable

from gpt2.files.lock import holder
from scripts.study import process as processes
from scripts.study.folder import MatrixFolder
from scripts.study.owners import Owners
from scripts.study.records import CellRecord, ChosenRate, MatrixRecord, Skipped, Started
from scripts.study.state import CellState, states
from scripts.study.tuning import chosen_rates, rate_for, tried

#: Failures that are final: they would happen again.
_FINAL = ("diverged", "memory")


def states_at_start(folder: MatrixFolder, matrix: MatrixRecord) -> dict[str, CellState]:
    """Return the state of every cell for a runner that starts."""
    known = states(folder, (cell.name for cell in matrix.cells), alive=False)
    for state in known.values():
        if state.status == "failed" and state.kind not in _FINAL:
            state.status = "unfinished"  # its reason may be gone
        if state.status == "skipped":
            state.status = "left"  # the rates chosen now may need it
    return known


class CellQueue:
    """The cells to run, in order; those at another rate than the chosen one are skipped."""

    def __init__(
        self,
        folder: MatrixFolder,
        matrix: MatrixRecord,
        states: dict[str, CellState],
        say: Callable[[str], None],
        owners: Owners,
    ) -> None:
        self._folder, self._matrix, self._states, self._say = folder, matrix, states, say
        self._owners = owners
        self._others = OtherProcesses(folder, say)
        self._chosen: list[ChosenRate] | None = None

    def next(self, running: Iterable[CellRecord]) -> CellRecord | None:
        """Return the next cell that no other process runs; `running` are those of this runner."""
        for cell in self.pending(running):
            if not self._others.hold(cell.name) and self._owners.take(cell.name):
                return cell
        return None

    def pending(self, running: Iterable[CellRecord]) -> list[CellRecord]:
        """Return the cells to run: first those for tuning, then those at chosen rates.

        While others run the last tuning cells these are returned: nothing else can start.
        """
        self._owners.refresh()
        busy = {cell.name: cell for cell in running}
        left = [
            cell
            for cell in self._matrix.cells
            if cell.name not in busy and self._states[cell.name].status in ("left", "unfinished")
        ]
        if self._matrix.tuning is None:
            return left
        if tuning := [cell for cell in left if cell.tuning]:
            return tuning
        if any(cell.tuning for cell in busy.values()):
            return []
        if elsewhere := [cell for cell in self._matrix.cells if self._tunes_elsewhere(cell)]:
            return elsewhere
        return self._at_chosen_rates(left)

    def _tunes_elsewhere(self, cell: CellRecord) -> bool:
        return cell.tuning and self._states[cell.name].status == "running"

    def _at_chosen_rates(self, left: list[CellRecord]) -> list[CellRecord]:
        """Return the cells at the chosen rates; the others are skipped, once."""
        tuning = self._matrix.tuning
        options = tuple(tuning.space or ()) if tuning else ()
        name = "trial" if options else "rate"
        if self._chosen is None:
            cells = self._matrix.cells
            self._chosen = self._owners.chosen(lambda: chosen_rates(self._folder, cells, options))
            for one in self._chosen:
                what = ", ".join(one.group.values()) or "all cells"
                best = "none works on every seed" if one.rate is None else one.rate or "no choice"
                self._say(f"{'trial' if options else 'learning rate'} of {what}: {best}")
        wanted = []
        for cell in left:
            rate = rate_for(cell.axes, self._chosen)
            if rate is not None and tried(cell.axes, options) == rate:
                wanted.append(cell)
            else:
                reason = f"no {name} works" if rate is None else f"the {name} chosen is {rate}"
                self._skip(cell, reason)
        return wanted

    def _skip(self, cell: CellRecord, reason: str) -> None:
        state = self._states[cell.name]
        if state.reason != reason:
            self._folder.write(Skipped(cell=cell.name, reason=reason))
        state.status, state.reason = "skipped", reason


class OtherProcesses:
    """Processes that run cells of this matrix: left by a killed runner, or started by hand."""

    def __init__(self, folder: MatrixFolder, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._since: dict[str, float] = {}  # cell -> when another process was first seen

    def hold(self, name: str) -> bool:
        """Return whether another process runs this cell; a killed runner's is killed in the end."""
        who = holder(self._folder.run_dir(name))
        if not who:
            self._since.pop(name, None)
            return False
        if self._folder.finished(name):  # it is only printing its sample
            return True
        if name not in self._since:
            self._since[name] = time.monotonic()
            self._say(f"{name}: {who} still runs it; waiting for it")
        pid = self._last_pid(name)
        waited = time.monotonic() - self._since[name]
        # A process number of another machine means another process here.
        if pid and who == f"process {pid} on {platform.node()}" and waited > processes.GRACE:
            processes.end_group(pid, signal.SIGKILL)
        return True

    def _last_pid(self, name: str) -> int | None:
        """Return the process that a runner last started for a cell."""
        events = [e for e in self._folder.journal() if isinstance(e, Started) and e.cell == name]
        return events[-1].pid if events else None
