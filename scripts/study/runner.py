"""Run the cells of a matrix: several at a time, surviving failures, kills and restarts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from gpt2.config.errors import Exit
from gpt2.machine.signals import StopRequest
from scripts.study.admission import Admission
from scripts.study.claims import Owner
from scripts.study.command import arguments, pasteable
from scripts.study.folder import MatrixFolder
from scripts.study.machine import environment_on
from scripts.study.outcomes import Outcomes, Running, done_of, exit_code
from scripts.study.owners import Nobody, Owners
from scripts.study.process import CellProcess
from scripts.study.queue import CellQueue, states_at_start
from scripts.study.records import CellRecord, MatrixRecord, Started
from scripts.study.state import CellState, progress
from scripts.study.status_line import StatusLine

#: Seconds between two checks of the processes.
_LOOK = 0.2
_LEAST_LIMIT, _FIRST_LIMIT, _TIMES_SLOWEST = 600.0, 86400.0, 10.0


class Task(Protocol):
    """A runner on a cluster: a task among others, with limited time."""

    @property
    def owner(self) -> Owner:
        """Return this task's owner record."""

    def owners(self, folder: MatrixFolder, states: dict[str, CellState]) -> Owners:
        """Return the other tasks, which share the cells of the open `folder`."""

    def enough(self) -> bool:
        """Return whether the task's time is too short for another cell."""


class TimeLimit:
    """The time limit of a cell in seconds: as given (0: none), else many times the slowest."""

    def __init__(self, given: int | None, slowest: float) -> None:
        self._given, self._slowest = given, slowest

    def observe(self, seconds: float) -> None:
        """Record how long a cell took."""
        self._slowest = max(self._slowest, seconds)

    @property
    def seconds(self) -> float:
        """Return the present limit."""
        if self._given is not None:
            return float(self._given) or float("inf")
        if not self._slowest:
            return _FIRST_LIMIT
        return max(_LEAST_LIMIT, _TIMES_SLOWEST * self._slowest)


def _notice(_: str, again: bool) -> str:
    if again:
        return "stopped at once; the running cells save and exit on their own"
    return "stopping: the running cells finish their step and save; Ctrl-C again stops at once"


class Runner:
    """Runs the cells of `matrix` in the open `folder`: starts processes, and waits for them.

    `train` is the command to which a cell's flags are appended; it runs in the folder `here`.
    `task`: this runner is a task of a cluster, beside others.
    """

    def __init__(
        self,
        folder: MatrixFolder,
        matrix: MatrixRecord,
        train: Sequence[str],
        here: Path,
        say: Callable[[str], None],
        task: Task | None = None,
    ) -> None:
        self._folder, self._matrix, self._train, self._here = folder, matrix, train, here
        self._line = StatusLine(folder, sys.stdout)
        self._say = say = self._line.wrap(say)
        self._task = task
        self._states = states_at_start(folder, matrix)
        self._owners: Owners = task.owners(folder, self._states) if task else Nobody(folder)
        self._queue = CellQueue(folder, matrix, self._states, say, self._owners)
        self._outcomes = Outcomes(folder, matrix.keep, self._states, say)
        self._admission = Admission(folder, matrix, say)
        slowest = max((s for state in self._states.values() for s in state.seconds), default=0.0)
        self._limit = TimeLimit(matrix.timeout, slowest)
        self._running: list[Running] = []
        self._lost: set[str] = set()  # cells that run here but belong to another task now

    def run(self) -> int:
        """Run what is left; return the exit code.

        Raises UserError when it cannot continue.
        """
        with StopRequest(_notice) as stop:
            self._owners.refresh(at_once=True)
            self._outcomes.complete_earlier(self._owners)
            cells = self._matrix.cells
            left = [cell for cell in cells if self._states[cell.name].status != "finished"]
            self._admission.check_disk_before(left)
            self._admission.check_memory_before(left)
            try:
                while self._step(stop):
                    self._line.show(self._cells_running())
                    time.sleep(_LOOK)
                if self._task:  # what others, who died since, could not record
                    self._outcomes.complete_earlier(self._owners)
            finally:
                self._end_all()
                self._line.clear()
                self._owners.close()
        if stop:
            self._say(f"stopped by {stop.signal}; saved. The same command resumes")
            return Exit.PREEMPTED
        if self._enough() and self._queue.pending([]):
            return Exit.PREEMPTED
        return exit_code(self._states)

    def _step(self, stop: StopRequest) -> bool:
        """Handle ended processes, start new ones; False when nothing is left to do."""
        self._take_in_ended(bool(stop))
        for cell in self._owners.beat():
            self._lose(cell)
        limit = self._limit.seconds
        for one in self._running:
            if stop:
                one.process.stop()
            elif one.process.seconds > limit:
                one.process.stop(f"not finished after {limit:.0f} s (MATRIX_TIMEOUT)")
        if stop or self._enough():
            return bool(self._running)
        self._fill()
        pending = self._running or self._queue.pending(self._cells_running())
        return bool(pending) or self._owners.awaited()

    def _enough(self) -> bool:
        """Return whether a task's time is too short for another cell."""
        return self._task is not None and self._task.enough()

    def _lose(self, cell: str) -> None:
        """Kill the process of a cell that another task has taken over: it now owns the folder."""
        for one in self._running:
            if one.cell.name == cell:
                self._say(f"{cell}: taken over by another task, since this one was silent")
                one.process.kill()
                self._lost.add(cell)

    def _take_in_ended(self, stopping: bool) -> None:
        for one in list(self._running):
            code = one.process.poll()
            if code is not None:
                self._running.remove(one)
                if one.cell.name in self._lost:
                    self._lost.discard(one.cell.name)
                    continue  # another task now writes this cell's journal
                self._outcomes.take(one, code, stopping)
                self._owners.release(one.cell.name)
                if self._states[one.cell.name].status == "finished":
                    self._limit.observe(self._states[one.cell.name].seconds[-1])
                    self._admission.refresh()

    def _fill(self) -> None:
        """Start cells wherever there is a free slot."""
        for device in self._matrix.gpus or ("",):
            while True:
                here = [one for one in self._running if one.device == device]
                if len(here) >= self._matrix.jobs:
                    break
                cell = self._queue.next(self._cells_running())
                if cell is None or not self._admission.on_disk(len(self._running)):
                    return
                beside = [(one.cell.kind, one.process.seconds) for one in here]
                if not self._admission.in_memory(cell.kind, device, beside, not self._running):
                    break
                self._start(cell, device)

    def _cells_running(self) -> list[CellRecord]:
        return [one.cell for one in self._running]

    def _start(self, cell: CellRecord, device: str) -> None:
        name, state = cell.name, self._states[cell.name]
        run_dir = self._folder.run_dir(name)
        step = progress(self._folder, name, None)[0] if self._task else None
        flags = arguments(cell, run_dir, state.halvings)
        environment = environment_on(device)
        if self._matrix.slots > 1:  # otherwise each compiles with a process per core
            threads = max(1, (os.cpu_count() or 1) // self._matrix.slots)
            environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))
        output = self._folder.output(name)
        process = CellProcess(
            [*self._train, *flags], self._here, output, environment, cell.checkpoint_bytes
        )
        shared = self._matrix.jobs > 1
        going_on = (run_dir / "config").exists()
        command = pasteable(flags, device)
        self._folder.write(
            Started(
                cell=name,
                pid=process.pid,
                host=self._task.owner.host if self._task else None,
                job=self._task.owner.job if self._task else None,
                step=step,
                gpu=device or None,
                shared=shared,
                going_on=going_on,
                command=command,
            )
        )
        self._outcomes.count_try(name, state.failures if self._task else 0)
        state.shared = state.shared or shared
        self._running.append(Running(cell, process, device))
        done = done_of(self._states)
        if os.environ.get("V") == "1":  # as for the kernel; the cell's folder has the command
            self._say(f"{name}: {'resumes' if going_on else 'starts'} {done}\n  {command}")
        elif going_on:
            self._say(f"{name}: resumes {done}")

    def _end_all(self) -> None:
        """Stop all processes when an error ends the loop."""
        for one in self._running:
            one.process.stop()
        while self._running:
            self._take_in_ended(stopping=True)
            time.sleep(_LOOK)
