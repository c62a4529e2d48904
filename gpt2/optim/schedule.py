"""Learning rate schedules: pure functions of the step and the progress of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

#: Warm-up when it is `auto`: this share of the run, but at most AUTO_STEPS steps.
AUTO_SHARE = 0.05
AUTO_STEPS = 2000


@dataclass(frozen=True)
class Schedule:
    """The factor on each group's learning rate.

    kind: cosine, linear, wsd or constant.
    final: the factor at the end, min_lr / learning_rate.
    warmup: steps; None: auto.
    steps: length of the run; None: only time ends it.
    decay: share of the run that decays, for wsd.
    """

    kind: str
    final: float
    warmup: int | None
    steps: int | None
    decay: float = 0.2

    def factor(self, step: int, progress: float) -> float:
        """Return the factor for `step` (from 0) at `progress` in [0, 1] of the run."""
        rise, share = self._warmup(step, progress)
        if rise < 1.0:
            return rise
        left = 1.0 - progress
        fall = min(1.0, max(0.0, left / (1.0 - share))) if share < 1.0 else 1.0  # 1 down to 0
        if self.kind == "cosine":
            shape = 0.5 * (1.0 - math.cos(math.pi * fall))
        elif self.kind == "linear":
            shape = fall
        elif self.kind == "wsd":
            decay = min(self.decay, 1.0 - share)  # never before the warm-up ends
            shape = min(1.0, left / decay) if decay > 0.0 else 1.0
        elif self.kind == "constant":
            return 1.0
        else:
            raise ValueError(f"unknown schedule {self.kind!r}")
        return self.final + (1.0 - self.final) * shape

    def apply(self, optimizer: torch.optim.Optimizer, step: int, progress: float) -> float:
        """Set every group's learning rate for this step; return the first group's."""
        factor = self.factor(step, progress)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        rate: float = optimizer.param_groups[0]["lr"]
        return rate

    def _warmup(self, step: int, progress: float) -> tuple[float, float]:
        """Return how far the warm-up is (1 or more: over) and the share of the run it takes."""
        if self.warmup is not None:
            share = min(1.0, self.warmup / self.steps) if self.steps else 0.0
            return ((step + 1) / self.warmup if self.warmup else 1.0), share
        if self.steps is not None:
            length = max(1, min(AUTO_STEPS, round(AUTO_SHARE * self.steps)))
            # A time limit may end the run long before its last step; then `progress` is ahead.
            return max((step + 1) / length, progress / AUTO_SHARE), min(1.0, length / self.steps)
        # Only time ends the run: the warm-up ends at whichever bound comes first.
        return max(progress / AUTO_SHARE, (step + 1) / AUTO_STEPS), AUTO_SHARE
