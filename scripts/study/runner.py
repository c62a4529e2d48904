"""Runs the cells of a matrix: many at a time, each to its end, whatever befalls them or itself."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit
from gpt2.files.lock import holder
from gpt2.machine.signals import StopRequest
from scripts.study import process as processes
from scripts.study.admission import Room
from scripts.study.command import arguments, can_halve, pasteable
from scripts.study.folder import MatrixFolder
from scripts.study.process import CellProcess
from scripts.study.state import CellState, results, states
from scripts.study.tuning import RATE, chosen_rates, rate_for

#: Seconds between two looks at the processes.
_LOOK = 0.2
#: So often a cell may be stopped by others before that counts as a failure.
_STOPS = 5
_LEAST_LIMIT, _FIRST_LIMIT, _TIMES_SLOWEST = 600.0, 86400.0, 10.0
#: Failures that are final: the same would happen again.
_FINAL = ("diverged", "memory")


@dataclass
class Running:
    """A cell that is running on a device: a GPU as CUDA_VISIBLE_DEVICES names it, or ""."""

    cell: dict[str, Any]
    process: CellProcess
    device: str
    shared: bool


class Runner:
    """Goes through the cells of `matrix` (matrix.json) in the open `folder`.

    `train` is the command that a cell's flags are put behind, run in the folder `here`.
    """

    def __init__(
        self,
        folder: MatrixFolder,
        matrix: dict[str, Any],
        train: Sequence[str],
        here: Path,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.matrix, self.train, self.here = folder, matrix, train, here
        self.say = say
        self.cells: list[dict[str, Any]] = matrix["cells"]
        self.states: dict[str, CellState] = {}
        self.running: list[Running] = []
        self.room = Room(folder, matrix, say)
        self.devices: list[str] = matrix["gpus"] or [""]
        self.chosen: list[dict[str, Any]] | None = None
        self._tries: Counter[str] = Counter()
        self._occupied: dict[str, float] = {}  # cells that another process runs: since when
        self._slowest = 0.0

    # -- the loop ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Run what is left; return the exit code. Raises UserError when it cannot go on."""
        with StopRequest() as stop:
            self._begin()
            try:
                while self._step(stop):
                    time.sleep(_LOOK)
            finally:
                self._end_all()
        if stop:
            self.say(f"stopped by {stop.signal}; saved. To go on: the same command")
            return Exit.PREEMPTED
        return self.verdict()

    def _step(self, stop: StopRequest) -> bool:
        """Take in what ended, start what can start; False when nothing is left to do."""
        for one in list(self.running):
            code = one.process.poll()
            if code is not None:
                self.running.remove(one)
                self._ended(one, code, bool(stop))
            elif one.process.seconds > self._limit():
                one.process.stop(f"no end after {self._limit():.0f} s (MATRIX_TIMEOUT)")
        if stop:
            for one in self.running:
                one.process.stop()
            return bool(self.running)
        self._fill()
        return bool(self.running or self._pending())

    def _begin(self) -> None:
        """Find out what is there already."""
        self.states = states(self.folder, (cell["name"] for cell in self.cells), alive=False)
        known = {line["cell"] for line in self.folder.journal() if line["event"] == "finished"}
        for name, state in self.states.items():
            if state.status == "failed" and state.kind not in _FINAL:
                state.status = "unfinished"  # its reason may be gone by now
            if state.status == "skipped":
                state.status = "left"  # by the rates chosen now it may be wanted
            if state.status == "finished":
                self.folder.thin(name, self.matrix["keep"])
                if name not in known:  # the runner was killed before it could write this
                    self.folder.write("finished", name, shared=state.shared)
        self._slowest = max((s for state in self.states.values() for s in state.seconds), default=0)
        left = [cell for cell in self.cells if self.states[cell["name"]].status != "finished"]
        self.room.check_disk_before(left)
        self.room.check_memory_before(left)

    def _fill(self) -> None:
        """Start cells wherever there is a place for one."""
        for device in self.devices:
            while True:
                here = [one for one in self.running if one.device == device]
                if len(here) >= self.matrix["jobs"]:
                    break
                cell = self._next()
                if cell is None or not self.room.on_disk(len(self.running)):
                    return
                beside = [(one.cell["kind"], one.process.seconds) for one in here]
                if not self.room.in_memory(cell["kind"], device, beside, not self.running):
                    break
                self._start(cell, device)

    def _pending(self) -> list[dict[str, Any]]:
        """Return the cells that are to be run, in order; of tuned ones those of the chosen rate."""
        busy = {one.cell["name"] for one in self.running}
        left = [
            cell
            for cell in self.cells
            if cell["name"] not in busy
            and self.states[cell["name"]].status in ("left", "unfinished")
        ]
        if self.matrix["tuning"] is None or any(cell["tuning"] for cell in left):
            return [cell for cell in left if cell["tuning"]] or left
        return [] if self._tuning_runs() else self._with_chosen_rates(left)

    def _next(self) -> dict[str, Any] | None:
        """Return the next cell that no other process has in its hands."""
        for cell in self._pending():
            if not self._is_occupied(cell["name"]):
                return cell
        return None

    # -- a cell's life ----------------------------------------------------------------------------

    def _start(self, cell: dict[str, Any], device: str) -> None:
        name, state = cell["name"], self.states[cell["name"]]
        flags = arguments(cell, self.folder.run_dir(name), state.halvings)
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": device} if device else {})}
        output = self.folder.output(name)
        process = CellProcess([*self.train, *flags], self.here, output, environment)
        shared = self.matrix["jobs"] > 1
        going_on = (self.folder.run_dir(name) / "config").exists()
        command = pasteable(flags, device)
        self.folder.write(
            "started",
            name,
            pid=process.pid,
            gpu=device or None,
            shared=shared,
            going_on=going_on,
            command=command,
        )
        self._tries[name] += 1
        state.shared = state.shared or shared
        self.running.append(Running(cell, process, device, shared))
        self.say(f"{name}: {'goes on' if going_on else 'starts'} {self._count()}\n  {command}")

    def _ended(self, one: Running, code: int, stopping: bool) -> None:
        """Record how a cell's process ended, and whether the cell is to be tried again."""
        name, state = one.cell["name"], self.states[one.cell["name"]]
        if self.folder.finished(name):
            self._finished(one)
        elif (
            code == Exit.PREEMPTED
            and not one.process.ended_for
            and (stopping or self._tries[name] < _STOPS)
        ):
            state.status = "unfinished"
            self.folder.write("stopped", name)
            if not stopping:
                self.say(f"{name}: stopped from outside; it goes on from its checkpoint")
        elif code == Exit.CONFIG and holder(self.folder.run_dir(name)):
            state.status = "unfinished"  # somebody was faster
            self.folder.write("stopped", name, reason="in use by another process")
        elif stopping and code < 0:
            state.status = "unfinished"
            self.folder.write("stopped", name, reason=processes.explain(code, one.process))
        else:
            self._failed(one, code)

    def _finished(self, one: Running) -> None:
        name, state = one.cell["name"], self.states[one.cell["name"]]
        seconds = one.process.seconds
        state.status = "finished"
        state.seconds.append(seconds)
        self._slowest = max(self._slowest, seconds)
        self.folder.thin(name, self.matrix["keep"])
        self.folder.write("finished", name, seconds=round(seconds, 1), shared=state.shared)
        self.room.refresh()
        loss = results(self.folder, name)["val_loss"]
        shown = "no number" if loss is None else f"{loss:.4f}"
        self.say(f"{name}: finished in {seconds:.0f} s, validation loss {shown} {self._count()}")

    def _failed(self, one: Running, code: int) -> None:
        name, state = one.cell["name"], self.states[one.cell["name"]]
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
        self.folder.write(
            "failed",
            name,
            kind=kind,
            exit_code=code,
            reason=reason,
            tail=state.tail,
            retry=retry,
            halvings=state.halvings,
        )
        if retry and kind == "checkpoint":
            self.folder.set_aside(name)
        text = f"{name}: FAILED, {kind} ({reason})"
        if retry:
            text += "; it is tried once more" + {
                "memory": " with half the micro-batch and twice the accumulation",
                "checkpoint": " from the start",
            }.get(kind, " from its last checkpoint")
        self.say("\n  | ".join([text, *state.tail.splitlines()]))

    def _is_occupied(self, name: str) -> bool:
        """Whether another process runs this cell: left by a killed runner, or started by hand."""
        who = holder(self.folder.run_dir(name))
        if not who:
            self._occupied.pop(name, None)
            return False
        if self.folder.finished(name):  # it is only printing its sample
            return True
        ours = [
            line["pid"]
            for line in self.folder.journal()
            if line.get("cell") == name and line["event"] == "started"
        ][-1:]
        if name not in self._occupied:
            self._occupied[name] = time.monotonic()
            self.say(f"{name}: {who} still runs it; waiting for it")
        waited = time.monotonic() - self._occupied[name]
        if ours and who.startswith(f"process {ours[0]} ") and waited > processes.GRACE:
            processes.end_group(ours[0], signal.SIGKILL)
        return True

    # -- what follows from the rest ---------------------------------------------------------------

    def _tuning_runs(self) -> bool:
        return any(one.cell["tuning"] for one in self.running)

    def _with_chosen_rates(self, left: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the cells with the rates that were chosen; the others are skipped, once."""
        if self.chosen is None:
            self.chosen = chosen_rates(self.folder, self.cells)
            for one in self.chosen:
                what = ", ".join(one["for"].values()) or "all cells"
                self.say(f"learning rate of {what}: {one['rate'] or 'none works on every seed'}")
        wanted = []
        for cell in left:
            rate = rate_for(cell["point"], self.chosen)
            if rate is not None and cell["point"][RATE] == rate:
                wanted.append(cell)
            else:
                state = self.states[cell["name"]]
                reason = "no rate works" if rate is None else f"the rate chosen is {rate}"
                if state.reason != reason:
                    self.folder.write("skipped", cell["name"], reason=reason)
                state.status, state.reason = "skipped", reason
        return wanted

    def _limit(self) -> float:
        """Return how many seconds a cell may run."""
        limit: int | None = self.matrix["timeout"]
        if limit is not None:
            return float(limit) or float("inf")
        if not self._slowest:
            return _FIRST_LIMIT
        return max(_LEAST_LIMIT, _TIMES_SLOWEST * self._slowest)

    def _count(self) -> str:
        counts = Counter(state.status for state in self.states.values())
        wanted = len(self.states) - counts["skipped"]
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        return f"({counts['finished']} of {wanted} done{failed})"

    def verdict(self) -> int:
        """Return 0 when all cells have finished, else the exit code of the failures, 1 if mixed."""
        kinds = {state.kind for state in self.states.values() if state.status == "failed"}
        codes = {code for code, kind in processes.KINDS.items() if kind in kinds}
        if not kinds:
            return Exit.OK
        return codes.pop() if len(kinds) == 1 and codes else Exit.BUG

    def _end_all(self) -> None:
        """Let nothing run on when the loop is left by an error."""
        for one in self.running:
            one.process.stop()
        while self.running:
            for one in list(self.running):
                code = one.process.poll()
                if code is not None:
                    self.running.remove(one)
                    self._ended(one, code, stopping=True)
            time.sleep(_LOOK)
