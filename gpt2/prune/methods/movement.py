"""Movement pruning (Sanh et al. 2020): weights that training moves towards zero go."""

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

    A step of gradient descent moves a weight away from zero where gradient and weight differ in
    sign; S rises there, and falls where the weight moves towards zero. S is accumulated from the
    first step of the run on, from the true gradients, skipped steps left out: 4 bytes per weight.

    As in the authors' program, scores are ranked within each matrix (pattern `layer`): those of
    different matrices are not on one scale. Three things differ. Pruning is final here, so a pruned
    weight gets no gradient and its score is frozen, where Sanh's straight-through estimator lets it
    return. The paper fine-tunes a trained model. Its program moves the scores by AdamW with a rate
    and a schedule of their own, where this is a plain sum.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def observe(self, name: str, weight: Tensor, gradient: Tensor, valid: Tensor) -> None:
        """Subtract gradient times weight from the score."""
        if name not in self._sums:
            self._sums[name] = torch.zeros_like(weight)
        # where, not a product: what a skipped step holds can be NaN.
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
        """Take back S of one parameter."""
        self._sums[name] = tensor


def build(context: PruningContext, options: None) -> Pruner:
    """Build the pruner."""
    return GradualPruner(context, Movement())
