"""The other runners of this matrix: none on one machine; tasks with claims on a cluster."""

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

#: Seconds between two reads of what others have done.
_LOOK = 5.0
#: Times that a cell may end with its task, without a further step, before it counts as failed.
_LOSSES = 5


class Owners(Protocol):
    """The runner's questions before it takes a cell, and its messages when it is done."""

    shared: bool

    def refresh(self, *, at_once: bool = False) -> None:
        """Update the states of the cells with what others have done."""

    def take(self, cell: str) -> bool:
        """Return whether this runner may run a cell, which then is its own."""

    def adopt(self, cell: str) -> bool:
        """Return whether this runner may record a cell's results."""

    def release(self, cell: str) -> None:
        """Give a cell back to the others."""

    def close(self) -> None:
        """Give back all that this runner took and did not start."""

    def beat(self) -> list[str]:
        """Report that this runner is alive; return the cells that were taken from it."""

    def chosen(self, choose: Callable[[], list[ChosenRate]]) -> list[ChosenRate]:
        """Return the learning rates for all, from `choose` if none were chosen yet."""

    def awaited(self) -> bool:
        """Return whether another owner's cell may still become free."""


class Nobody:
    """A runner on one machine: it holds the lock of the folder, so every cell is its own."""

    shared = False

    def __init__(self, folder: MatrixFolder) -> None:
        self._folder = folder

    def refresh(self, *, at_once: bool = False) -> None:
        """Do nothing: no other runner changes anything."""

    def take(self, cell: str) -> bool:  # noqa: ARG002 - of all
        """Return True."""
        return True

    def adopt(self, cell: str) -> bool:  # noqa: ARG002 - of all
        """Return True."""
        return True

    def release(self, cell: str) -> None:
        """Do nothing: no other runner waits for it."""

    def close(self) -> None:
        """Do nothing."""

    def beat(self) -> list[str]:
        """Return no cells: no other runner takes any."""
        return []

    def chosen(self, choose: Callable[[], list[ChosenRate]]) -> list[ChosenRate]:
        """Choose again."""
        chosen = choose()
        record_choice(self._folder, chosen)
        return chosen

    def awaited(self) -> bool:
        """Return False: no other runner has a cell."""
        return False


class Others:
    """Tasks of a cluster that work in the same folder. `states` is updated in place.

    submission: the one these tasks belong to; every submission chooses its learning rates anew.
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
        self._idle: tuple[float, dict[str, float]] | None = None  # since when, with the beats then

    def refresh(self, *, at_once: bool = False) -> None:
        """Read the journal and the claims, but at most every few seconds."""
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
                state.status = "running"  # it is about to start
            vars(self._states[name]).update(vars(state))

    def take(self, cell: str) -> bool:
        """Claim a cell, and check again whether it is still to be run."""
        if cell in self._mine:  # taken before, when memory was missing
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
        """Claim a cell with results, to record what its owner could not."""
        if not self._claims.take(cell):
            return False
        self._mine.add(cell)
        if any(isinstance(one, Finished) and one.cell == cell for one in self._folder.journal()):
            self.release(cell)  # its owner has just recorded it
            return False
        return True

    def _lost_too_often(self, cell: str) -> bool:
        """Return whether a cell ended with its task repeatedly without a step; it fails then."""
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
        """Give a claim back, if it is still this task's."""
        if cell in self._mine:
            self._mine.discard(cell)
            self._claims.release(cell)

    def close(self) -> None:
        """Give all claims back."""
        for cell in list(self._mine):
            self.release(cell)

    def beat(self) -> list[str]:
        """Renew the claims, but at most every few seconds."""
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
        """Return True until all other owners have proved alive: a dead one leaves a cell.

        The wait is limited for an owner that is silent although its job exists.
        """
        now = time.monotonic()
        since, first = self._idle = self._idle or (now, self._beats)
        unproven = [cell for cell, beat in self._beats.items() if first.get(cell) == beat]
        return bool(unproven) and now - since < claiming.SILENT + 2 * claiming.BEAT


@dataclass(frozen=True, kw_only=True)
class _Choice(Record):
    """A file of chosen/: the learning rates of one submission."""

    rates: tuple[ChosenRate, ...]
