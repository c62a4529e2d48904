"""Magnitude pruning (Han et al. 2015; gradually: Zhu and Gupta 2017) of the smallest weights.

As in Zhu and Gupta, each matrix loses the same share (pattern `layer`) on their cubic schedule
during training. Other patterns distribute the zeros otherwise: `lamp` is Lee et al. 2021.
"""

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
