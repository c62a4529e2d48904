"""The end of a cell's process: what it means for the cell, and whether it is tried again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpt2.config.errors import Exit
from gpt2.config.text import rough_duration
from gpt2.files.lock import holder
from gpt2.run_dir.folder import prune_checkpoints
from scripts.study import process as processes
from scripts.study.command import can_halve
from scripts.study.folder import MatrixFolder
from scripts.study.owners import Owners
from scripts.study.process import CellProcess
from scripts.study.records import CellRecord, Failed, Finished, Stopped
from scripts.study.state import CellState, results
from scripts.study.views import remaining

#: Stops from outside after which a cell counts as failed.
_STOPS = 5


@dataclass
class Running:
    """A running cell and its device: a GPU in terms of CUDA_VISIBLE_DEVICES, or ""."""

    cell: CellRecord
    process: CellProcess
    device: str


class Outcomes:
    """Records in the journal and in `states` how cells ended. keep: checkpoints that stay."""

    def __init__(
        self,
        folder: MatrixFolder,
        keep: str,
        states: Mapping[str, CellState],
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._keep, self._states, self._say = folder, keep, states, say
        self._tries: Counter[str] = Counter()

    def complete_earlier(self, owners: Owners) -> None:
        """Complete for finished cells what a killed runner left undone."""
        known = {event.cell for event in self._folder.journal() if isinstance(event, Finished)}
        for name, state in self._states.items():
            if state.status != "finished" or (owners.shared and name in known):
                continue
            if owners.adopt(name):
                prune_checkpoints(self._folder.run_dir(name), self._keep)
                if name not in known:
                    self._folder.write(Finished(cell=name, shared=state.shared))
                owners.release(name)

    def count_try(self, name: str, earlier: int = 0) -> None:
        """Count an attempt of a cell, which limits further ones.

        `earlier`: attempts that failed with other tasks.
        """
        self._tries[name] = max(self._tries[name], earlier) + 1

    def take(self, one: Running, code: int, stopping: bool) -> None:
        """Record the end of a cell's process. `stopping`: the runner was told to stop."""
        name = one.cell.name
        stopped = code == Exit.PREEMPTED and not one.process.ended_for
        if self._folder.finished(name):
            self._finished(one)
        elif stopped and (stopping or self._tries[name] < _STOPS):
            self._stopped(name)
            if not stopping:
                self._say(f"{name}: stopped from outside; it will resume from its checkpoint")
        elif code == Exit.CONFIG and holder(self._folder.run_dir(name)):
            self._stopped(name, "in use by another process")  # another process was faster
        elif stopping and code < 0:
            self._stopped(name, processes.explain(code, one.process))
        else:
            self._failed(one, code)

    def _stopped(self, name: str, reason: str | None = None) -> None:
        self._states[name].status = "unfinished"
        self._folder.write(Stopped(cell=name, reason=reason))

    def _finished(self, one: Running) -> None:
        name, state = one.cell.name, self._states[one.cell.name]
        seconds = one.process.seconds
        state.status = "finished"
        state.seconds.append(seconds)
        prune_checkpoints(self._folder.run_dir(name), self._keep)
        self._folder.write(Finished(cell=name, seconds=round(seconds, 1), shared=state.shared))
        loss = results(self._folder, name).val_loss
        shown = "no number" if loss is None else f"{loss:.4f}"
        took = f"{rough_duration(seconds)}{self._left()}"
        self._say(f"{count_of(self._states)} {name}  loss {shown}  {took}")

    def _left(self) -> str:
        """Return the remaining time, if known."""
        seconds = remaining(self._folder, self._folder.matrix(), self._states)
        return f"   left {rough_duration(seconds)}" if seconds else ""

    def _failed(self, one: Running, code: int) -> None:
        name, state = one.cell.name, self._states[one.cell.name]
        kind = processes.kind_of(code, one.process)
        reason = processes.explain(code, one.process)
        if code == Exit.OK:
            reason = "ended without results"
        retry = kind in processes.WORTH_ANOTHER and self._tries[name] < 2
        if kind == "memory":
            retry = retry and can_halve(one.cell, state.halvings)
            state.halvings += retry
        state.status = "unfinished" if retry else "failed"
        state.kind, state.reason, state.tail = kind, reason, one.process.tail()
        self._folder.write(
            Failed(
                cell=name,
                kind=kind,
                exit_code=code,
                reason=reason,
                tail=state.tail,
                retry=retry,
                halvings=state.halvings,
            )
        )
        if retry and kind == "checkpoint":
            self._folder.set_aside(name)
        text = f"{name}: FAILED, {kind} ({reason})"
        if retry:
            text += "; trying once more" + {
                "memory": " with half the micro-batch and twice the accumulation",
                "checkpoint": " from the start",
            }.get(kind, " from its last checkpoint")
        self._say("\n  | ".join([text, *state.tail.splitlines()]))


def count_of(states: Mapping[str, CellState]) -> str:
    """Return how many cells have finished: [12/90]."""
    counts = Counter(state.status for state in states.values())
    wanted = len(states) - counts["skipped"]
    return f"[{counts['finished']:>{len(str(wanted))}}/{wanted}]"


def done_of(states: Mapping[str, CellState]) -> str:
    """Return how many cells are done, for people: (3 of 8 done, 1 failed)."""
    counts = Counter(state.status for state in states.values())
    wanted = len(states) - counts["skipped"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"({counts['finished']} of {wanted} done{failed})"


def exit_code(states: Mapping[str, CellState]) -> int:
    """Return 0 when all cells have finished, else the exit code of the failures, 1 if mixed."""
    kinds = {state.kind for state in states.values() if state.status == "failed"}
    codes = {code for code, kind in processes.KINDS.items() if kind in kinds}
    if not kinds:
        return Exit.OK
    return codes.pop() if len(kinds) == 1 and codes else Exit.BUG
