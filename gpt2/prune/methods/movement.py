"""Movement pruning (Sanh et al. 2020): prune weights that training moves towards zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gpt2.machine.shards import local_shard
from gpt2.prune.base import PruningContext
from gpt2.prune.gradual import GradualPruner, Score
from gpt2.prune.pruner import Pruner


class Movement(Score):
    """S = - sum over steps of (dL/dW * W): Sanh et al. 2020, equation 3, without its rate.

    Gradient descent moves a weight away from zero where gradient and weight differ in sign: there S
    rises. Where the weight moves towards zero, S falls. S is accumulated from the first step of the
    run, from unscaled gradients, without skipped steps. It takes 4 bytes per weight. As in the
    authors' program, scores are ranked within each matrix (pattern `layer`): those of different
    matrices are not on one scale.

    Three things differ from the paper. Pruning is final here: a pruned weight gets no gradient and
    keeps its score, where Sanh's straight-through estimator lets it return. The paper fine-tunes a
    trained model. Its program updates scores by AdamW with their own rate and schedule; this is a
    plain sum.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def observe(self, name: str, weight: Tensor, gradient: Tensor, valid: Tensor) -> None:
        """Subtract gradient times weight from the score."""
        if name not in self._sums:
            self._sums[name] = torch.zeros_like(weight)
        # Use where, not a product: a skipped step can hold NaN.
        local_shard(self._sums[name]).sub_(
            torch.where(valid, local_shard(gradient) * local_shard(weight), 0.0)
        )

    def score(self, name: str, weight: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return S."""
        return self._sums[name]

    def tensors(self) -> dict[str, Tensor]:
        """Return S by parameter."""
        return dict(self._sums)

    def load(self, name: str, tensor: Tensor) -> None:
        """Restore S of one parameter."""
        self._sums[name] = tensor


def build(context: PruningContext, options: None) -> Pruner:
    """Build the pruner."""
    return GradualPruner(context, Movement())
