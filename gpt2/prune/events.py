"""The events on a sparsity schedule: at which steps weights go, and where a run is among them."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2.prune.schedule import AUTO_EVENTS, SparsitySchedule


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
