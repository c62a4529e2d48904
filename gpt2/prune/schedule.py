"""How sparse a run is when: the ramp from dense to the target, and the events on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Events on the ramp when the interval is `auto`.
AUTO_EVENTS = 20


@dataclass(frozen=True)
class SparsitySchedule:
    """Where pruning begins and ends, as shares of the run, and how it gets there.

    kind: cubic, linear, or step (all at once at `start`; `end` and `interval` are without meaning).
    interval: steps between events, or None for a twentieth of the ramp.
    """

    kind: str
    start: float
    end: float
    target: float
    interval: int | None

    def position(self, progress: float) -> float:
        """Return how far along the ramp the run is at `progress`: 0 to 1."""
        if self.kind == "step" or progress >= self.end:
            return 1.0 if progress >= self.start else 0.0
        return max(0.0, progress - self.start) / (self.end - self.start)

    def sparsity(self, progress: float) -> float:
        """Return the share of pruned weights that is due at `progress`."""
        return self.sparsity_at(self.position(progress))

    def sparsity_at(self, position: float) -> float:
        """Return the share of pruned weights that is due at a position, from 0 to 1.

        cubic is Zhu and Gupta 2017, equation 1, from 0: fast while there is much to spare, slow
        near the target.
        """
        left = 1.0 - position
        return self.target * (1.0 - (left**3 if self.kind == "cubic" else left))

    def steps(self, run: int) -> int:
        """Return the steps that the ramp takes in a run of `run` steps."""
        return 0 if self.kind == "step" else round((self.end - self.start) * run)


class Events:
    """Tells the steps at which something happens on a ramp; a checkpoint holds where it is."""

    def __init__(self, schedule: SparsitySchedule) -> None:
        self.schedule = schedule
        self._begun: int | None = None  # step of the first event
        self._last = 0.0  # position of the last one

    def reached(self) -> float:
        """Return the share of pruned weights that the last event made; 0 before the first."""
        return 0.0 if self._begun is None else self.schedule.sparsity_at(self._last)

    def is_due(self, step: int, progress: float) -> bool:
        """Whether there is an event after `step` steps: the first, every interval, and the last."""
        schedule = self.schedule
        if progress < schedule.start:
            return False
        if self._begun is None:
            return True
        position = schedule.position(progress)
        if self._last >= 1.0 or position >= 1.0:
            return self._last < 1.0
        if schedule.interval is not None:
            return (step - self._begun) % schedule.interval == 0
        return _twentieths(position) > _twentieths(self._last)

    def advance(self, step: int, progress: float) -> None:
        """Note that the event was made."""
        if self._begun is None:
            self._begun = step
        self._last = self.schedule.position(progress)

    def tensor(self) -> Tensor:
        """Return where it is, for a checkpoint: float64, (2,)."""
        begun = -1 if self._begun is None else self._begun
        return torch.tensor([begun, self._last], dtype=torch.float64)

    def load(self, tensor: Tensor) -> None:
        """Take back what `tensor` gave."""
        begun, self._last = (float(value) for value in tensor)
        self._begun = None if begun < 0 else int(begun)


def _twentieths(position: float) -> int:
    return int(AUTO_EVENTS * position + 1e-9)  # shares of a run are rounded: 0.05 may fall short
