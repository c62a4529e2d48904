"""Magnitude pruning (Han et al. 2015; gradually: Zhu and Gupta 2017): the smallest weights go."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gpt2.prune.base import PruningContext
from gpt2.prune.gradual import GradualPruner, Score
from gpt2.prune.pruner import Pruner


class Magnitude(Score):
    """|w|."""

    def score(self, name: str, weight: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the magnitudes."""
        return weight.abs()


def build(context: PruningContext, options: None) -> Pruner:
    """Build the pruner."""
    return GradualPruner(context, Magnitude())
