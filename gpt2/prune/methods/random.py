"""Random pruning: the control that any gradual method must beat.

It uses the pattern and schedule of `magnitude`. All weights are trained at first: for a method that
is sparse from the start, the control is `static`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gpt2.prune.base import PruningContext
from gpt2.prune.gradual import GradualPruner, Score
from gpt2.prune.pruner import Pruner
from gpt2.prune.seeded_random import uniform


class Random(Score):
    """A random number for each weight, drawn from the run's seed: the same at every event."""

    slow = True  # drawn on the CPU, so that every device has the same numbers

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def score(self, name: str, weight: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the numbers; drawing them again needs no memory between events."""
        return uniform(weight.shape, self.seed, "random pruning", name).to(weight.device)


def build(context: PruningContext, options: None) -> Pruner:
    """Build the pruner."""
    return GradualPruner(context, Random(context.seed))
