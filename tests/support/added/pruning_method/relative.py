"""Relative magnitude: the weights go that are smallest beside the others of their row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from gpt2.config.typed import Within
from gpt2.prune.base import PruningContext
from gpt2.prune.gradual import GradualPruner, Score
from gpt2.prune.pruner import Pruner


@dataclass(frozen=True)
class Options:
    """How much the row counts."""

    power: Annotated[float, Within("[0, 1]")]


class Relative(Score):
    """|w| / (mean |w| of its row) ** power."""

    def __init__(self, power: float) -> None:
        self.power = power

    def score(self, name: str, weight: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the relative magnitudes."""
        sizes = weight.abs()
        row = sizes.mean(dim=-1, keepdim=True).clamp_min(1e-30)  # a whole row may be pruned
        return sizes / row**self.power


def build(context: PruningContext, options: Options) -> Pruner:
    """Build the pruner."""
    return GradualPruner(context, Relative(options.power))
