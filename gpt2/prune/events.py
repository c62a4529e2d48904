"""The events of a sparsity schedule: when weights are pruned, and how far a run is."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2.prune.schedule import AUTO_EVENTS, SparsitySchedule


class Events:
    """Decides at which steps of a schedule events happen; its state goes into checkpoints."""

    def __init__(self, schedule: SparsitySchedule) -> None:
        self.schedule = schedule
        self._begun: int | None = None  # step of the first event
        self._last = 0.0  # position of the last one

    def reached(self) -> float:
        """Return the sparsity that the last event reached; 0 before the first."""
        return 0.0 if self._begun is None else self.schedule.sparsity_at(self._last)

    def is_due(self, step: int, progress: float) -> bool:
        """Return whether an event is due after `step`: the first, every interval, the last."""
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
        """Record that the event happened."""
        if self._begun is None:
            self._begun = step
        self._last = self.schedule.position(progress)

    def tensor(self) -> Tensor:
        """Return the position, for a checkpoint: float64, (2,)."""
        begun = -1 if self._begun is None else self._begun
        return torch.tensor([begun, self._last], dtype=torch.float64)

    def load(self, tensor: Tensor) -> None:
        """Restore the result of tensor()."""
        begun, self._last = (float(value) for value in tensor)
        self._begun = None if begun < 0 else int(begun)


def _twentieths(position: float) -> int:
    return int(AUTO_EVENTS * position + 1e-9)  # progress is rounded: 0.05 may fall short
