"""State pruning: scores from the moments that an Adam-like optimizer has already.

`fisher` ranks by the loss that removing a weight costs. That has the same unit in all matrices, so
they are ranked together, as in Optimal Brain Damage (pattern `global`). The other scores have no
such unit. Under `global`, a score also decides how many weights each matrix loses: to compare
criteria only, give this method and `magnitude` the same other pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.prune.base import PruningContext
from gpt2.prune.gradual import GradualPruner, Score
from gpt2.prune.pruner import Pruner


@dataclass(frozen=True)
class Options:
    """State pruning's own options."""

    score: str


def fisher(weight: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """|w| sqrt(v).

    Optimal Brain Damage (LeCun et al. 1990, equation 5) ranks by h w^2 / 2, the second-order loss
    of zeroing a weight. With the diagonal of the Fisher information for h, which v estimates (Theis
    et al. 2018, equation 5), this is the ranking by |w| sqrt(v).
    """
    return weight.abs() * v.sqrt()


def fourth_root(weight: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """|w| v^(1/4): between fisher and magnitude (AdamWPrune, variant bitter7)."""
    return weight.abs() * v.sqrt().sqrt()


def momentum_stability(weight: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """w^2 |m| / sqrt(v): large weights with steady gradients stay (AdamWPrune, bitter0)."""
    return weight.square() * _steadiness(m, v)


def gradient_magnitude(weight: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """|w| sqrt(|m|): large weights with large mean gradients stay (AdamWPrune, bitter3)."""
    return weight.abs() * m.abs().sqrt()


def coherence(weight: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """|w| sqrt(|m|) |m| / sqrt(v): as gradient-magnitude, the steady first (bitter6)."""
    return gradient_magnitude(weight, m, v) * _steadiness(m, v)


def _steadiness(m: Tensor, v: Tensor) -> Tensor:
    """Return |m| / sqrt(v), 0 where no gradient has been seen.

    No epsilon: v is of the order of squared gradients, which span many powers of ten and shrink
    with the model. A constant that is large beside it would make all scores alike.
    """
    return torch.where(v > 0.0, m.abs() / v.sqrt(), 0.0)


_FORMULAS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fisher": fisher,
    "fourth-root": fourth_root,
    "momentum-stability": momentum_stability,
    "gradient-magnitude": gradient_magnitude,
    "coherence": coherence,
}


class FromState(Score):
    """A formula of weight w and the moments m and v.

    Bias correction is left out: within one step it is the same factor for all weights, and changes
    no rank.
    """

    state_keys = ("exp_avg", "exp_avg_sq")

    def __init__(self, formula: str) -> None:
        self.formula = _FORMULAS[formula]

    def score(self, name: str, weight: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the formula's value for each weight."""
        return self.formula(weight, state["exp_avg"], state["exp_avg_sq"])


def build(context: PruningContext, options: Options) -> Pruner:
    """Build the pruner."""
    return GradualPruner(context, FromState(options.score))
