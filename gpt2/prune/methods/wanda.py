"""Wanda (Sun et al. 2023): one shot, by weights times the norm of their inputs.

As in the paper, each row loses the same share, by 128 sequences of training text. The paper prunes
a trained model and trains no more: --pruning-start 1. The default prunes in the middle of the run
and lets training recover, to be comparable with methods that prune while training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2.prune.allocation import choose
from gpt2.prune.base import PruningContext
from gpt2.prune.oneshot import OneShotPruner
from gpt2.prune.pruner import Pruner
from gpt2.prune.topk import keys


class InputNorms:
    """|W_ij| ||X_j||_2 for one layer (Sun et al. 2023, equation 1)."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.squares = torch.zeros(weight.size(1), device=weight.device)

    def see(self, inputs: Tensor) -> None:
        """Add the squares of inputs (N, in)."""
        self.squares += inputs.square().sum(dim=0)

    def prune(self, count: int, pattern: str, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return which `count` weights of `rows` to prune, and these rows unchanged."""
        weight = self.weight[rows]
        scores = weight.abs() * self.squares.sqrt()
        return choose(keys(scores), pattern, count), weight


def build(context: PruningContext, options: None) -> Pruner:
    """Build the pruner."""
    return OneShotPruner(context, InputNorms)
