"""Sparsity over a run: the schedule from dense to the target."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpt2.config.typed import PruneConfig

#: Events on the ramp when the interval is `auto`.
AUTO_EVENTS = 20


@dataclass(frozen=True)
class SparsitySchedule:
    """When pruning starts and ends, as shares of the run, and the curve between.

    kind: cubic, linear, or step (all at once at `start`; `end` and `interval` have no effect).
    interval: steps between events, or None for a twentieth of the ramp.
    """

    kind: str
    start: float
    end: float
    target: float
    interval: int | None

    def position(self, progress: float) -> float:
        """Return how far the ramp is at `progress`: 0 to 1."""
        if self.kind == "step" or progress >= self.end:
            return 1.0 if progress >= self.start else 0.0
        return max(0.0, progress - self.start) / (self.end - self.start)

    def sparsity(self, progress: float) -> float:
        """Return the sparsity due at `progress`."""
        return self.sparsity_at(self.position(progress))

    def sparsity_at(self, position: float) -> float:
        """Return the sparsity due at a position of the ramp, from 0 to 1.

        cubic is Zhu and Gupta 2017, equation 1, from 0: fast while many weights can be spared, slow
        near the target.
        """
        left = 1.0 - position
        return self.target * (1.0 - (left**3 if self.kind == "cubic" else left))

    def steps(self, run: int) -> int:
        """Return the length of the ramp, in steps, in a run of `run` steps."""
        return 0 if self.kind == "step" else round((self.end - self.start) * run)

    def average(self, run: int) -> float:
        """Return the mean sparsity over a run of `run` steps."""
        if self.kind == "step":
            return self.target * (1.0 - self.start)
        events = AUTO_EVENTS if self.interval is None else self.steps(run) / self.interval
        # The sparsity of an event holds until the next one.
        held = [self.sparsity_at(min(1.0, k / events)) for k in range(max(1, math.ceil(events)))]
        ramp = sum(held) / len(held)
        return (self.end - self.start) * ramp + (1.0 - self.end) * self.target


def schedule_of(prune: PruneConfig) -> SparsitySchedule:
    """Return the schedule of `prune`; one-shot pruning is a step at the start."""
    end = prune.pruning_start if prune.pruning_end is None else prune.pruning_end
    kind = prune.pruning_schedule or ("step" if prune.pruning_end is None else "linear")
    return SparsitySchedule(
        kind, prune.pruning_start, end, prune.target_sparsity, prune.pruning_interval
    )


def average_sparsity(prune: PruneConfig, run: int) -> float:
    """Return the mean sparsity of the prunable weights over a run of `run` steps.

    A method that has an end but no schedule moves weights, and has the target sparsity from the
    start.
    """
    if prune.pruning_schedule is None and prune.pruning_end is not None:
        return prune.target_sparsity
    return schedule_of(prune).average(run)
