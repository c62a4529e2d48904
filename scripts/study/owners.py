"""Who else runs cells of this matrix: nobody, on one machine; tasks with claims, on a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gpt2.config.records import Record, to_json
from gpt2.files.atomic import create_file
from gpt2.files.json import read_record
from scripts.study import claims as claiming
from scripts.study.claims import Claims
from scripts.study.folder import MatrixFolder
from scripts.study.records import ChosenRate, Failed, Finished, Started
from scripts.study.state import CellState, progress, states
from scripts.study.tuning import record_choice

#: Seconds between two looks at what others have done.
_LOOK = 5.0
#: So often a cell may end with its task, without a further step, before that is its failure.
_LOSSES = 5


class Owners(Protocol):
    """What the runner asks before it takes a cell, and tells when it is done with one."""

    shared: bool

    def refresh(self, *, at_once: bool = False) -> None:
        """Bring the states of the cells up to date with what others have done."""

    def take(self, cell: str) -> bool:
        """Whether this runner may run a cell, which then is its own."""

    def adopt(self, cell: str) -> bool:
        """Whether this runner may record the results that a cell has."""

    def release(self, cell: str) -> None:
        """Let others have a cell again."""

    def close(self) -> None:
        """Let others have all that this runner took and did not start."""

    def beat(self) -> list[str]:
        """Say that this runner is alive; return the cells that were taken from it."""

    def chosen(self, choose: Callable[[], list[ChosenRate]]) -> list[ChosenRate]:
        """Return the learning rates that all go by, made by `choose` if nobody has yet."""

    def awaited(self) -> bool:
        """Whether a cell that another one has may yet come free."""


class Nobody:
    """A runner on one machine: it holds the lock of the folder, so every cell is its own."""

    shared = False

    def __init__(self, folder: MatrixFolder) -> None:
        self._folder = folder

    def refresh(self, *, at_once: bool = False) -> None:
        """Nobody else changes anything."""

    def take(self, cell: str) -> bool:  # noqa: ARG002 - of all
        """Take any cell."""
        return True

    def adopt(self, cell: str) -> bool:  # noqa: ARG002 - of all
        """Record any results."""
        return True

    def release(self, cell: str) -> None:
        """Nobody waits for it."""

    def close(self) -> None:
        """Nobody waits."""

    def beat(self) -> list[str]:
        """Nobody takes a cell away."""
        return []

    def chosen(self, choose: Callable[[], list[ChosenRate]]) -> list[ChosenRate]:
        """Choose anew."""
        chosen = choose()
        record_choice(self._folder, chosen)
        return chosen

    def awaited(self) -> bool:
        """Nobody else has a cell."""
        return False


class Others:
    """Tasks of a cluster at work in the same folder. `states` is kept up to date in place.

    submission: which one these tasks are of; every submission chooses its learning rates anew.
    """

    shared = True

    def __init__(
        self,
        folder: MatrixFolder,
        claims: Claims,
        states_: dict[str, CellState],
        submission: str,
    ) -> None:
        self._folder, self._claims, self._states = folder, claims, states_
        self._choice = folder.path / "chosen" / f"{submission}.json"
        self._mine: set[str] = set()
        self._looked = self._beaten = float("-inf")
        self._beats: dict[str, float] = {}  # of the claims of others
        self._idle: tuple[float, dict[str, float]] | None = None  # since when, and the beats then

    def refresh(self, *, at_once: bool = False) -> None:
        """Read the journal and the claims, unless that was done a moment ago."""
        if not at_once and time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        held = self._claims.held()
        self._beats = {cell: one.beat for cell, one in held.items() if cell not in self._mine}
        for name, state in states(self._folder, self._states, alive=held).items():
            if name in self._mine:
                continue
            if state.status == "skipped":
                state.status = "left"  # the queue decides by the rates
            elif name in held and state.status in ("left", "unfinished"):
                state.status = "running"  # it is about to be started
            vars(self._states[name]).update(vars(state))

    def take(self, cell: str) -> bool:
        """Claim a cell, and look once more whether it is still to be run."""
        if cell in self._mine:  # it was taken, and there was no memory for it yet
            return True
        if not self._claims.take(cell):
            self._states[cell].status = "running"
            return False
        self._idle = None
        known = states(self._folder, [cell], alive=False)[cell]
        vars(self._states[cell]).update(vars(known))
        if known.status == "skipped":
            self._states[cell].status = "left"
        self._mine.add(cell)
        if known.status in ("finished", "failed") or self._lost_too_often(cell):
            self.release(cell)
            return False
        return True

    def adopt(self, cell: str) -> bool:
        """Claim a cell that has its results, to record what its owner did not come to say."""
        if not self._claims.take(cell):
            return False
        self._mine.add(cell)
        if any(isinstance(one, Finished) and one.cell == cell for one in self._folder.journal()):
            self.release(cell)  # it came to say that just now
            return False
        return True

    def _lost_too_often(self, cell: str) -> bool:
        """Whether a cell ended with its task again and again without a step; it is failed then."""
        steps: list[int | None] = []
        for event in self._folder.journal():
            if event.cell == cell:
                steps = [*steps, event.step] if isinstance(event, Started) else []
        step, _ = progress(self._folder, cell, None)
        if len([one for one in steps if one == step]) < _LOSSES:
            return False
        reason = f"its task ended without a further step, {_LOSSES} times"
        self._folder.write(Failed(cell=cell, kind="crash", reason=reason))
        self._states[cell].status = "failed"
        self._states[cell].kind, self._states[cell].reason = "crash", reason
        return True

    def release(self, cell: str) -> None:
        """Give a claim back, if it still is this task's."""
        if cell in self._mine:
            self._mine.discard(cell)
            self._claims.release(cell)

    def close(self) -> None:
        """Give all claims back."""
        for cell in list(self._mine):
            self.release(cell)

    def beat(self) -> list[str]:
        """Renew the claims, unless that was done a moment ago."""
        if time.monotonic() - self._beaten < claiming.BEAT:
            return []
        self._beaten = time.monotonic()
        lost = self._claims.beat()
        self._mine -= set(lost)
        return lost

    def chosen(self, choose: Callable[[], list[ChosenRate]]) -> list[ChosenRate]:
        """Return the choice of this submission: one task makes it, all others read it."""
        if not self._choice.exists():
            choice = _Choice(rates=tuple(choose()))
            self._choice.parent.mkdir(exist_ok=True)
            if create_file(self._choice, json.dumps(to_json(choice)) + "\n"):
                record_choice(self._folder, choice.rates)
        advice = "remove it: the next submission chooses again"
        return [*read_record(self._choice, _Choice, advice).rates]

    def awaited(self) -> bool:
        """Wait until all other owners have shown that they are alive: a dead one leaves a cell.

        Nobody waits for long for an owner that is silent and whose job is there all the same.
        """
        now = time.monotonic()
        since, first = self._idle = self._idle or (now, self._beats)
        unproven = [cell for cell, beat in self._beats.items() if first.get(cell) == beat]
        return bool(unproven) and now - since < claiming.SILENT + 2 * claiming.BEAT


@dataclass(frozen=True, kw_only=True)
class _Choice(Record):
    """A file of chosen/: what every task of one submission goes by."""

    rates: tuple[ChosenRate, ...]
