"""Static masks: the target sparsity from the first step, in weights that never change.

The masks are drawn at random (the control of RigL and SET), or are the zeros of the initial model.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from gpt2.machine.shards import full_tensor
from gpt2.model.matrices import Matrix
from gpt2.prune.allocation import choose
from gpt2.prune.base import MaskedPruner, PruningContext
from gpt2.prune.masks import Masks
from gpt2.prune.pruner import Sparsity
from gpt2.prune.seeded_random import uniform
from gpt2.prune.topk import keys

_ZEROS = "zeros"


class StaticPruner(MaskedPruner):
    """Keeps its initial masks."""

    def apply(self, step: int, progress: float) -> None:
        """Keep pruned weights and their state at zero, where masked gradients are not enough."""
        if not self.context.keeps_zeros:
            self.masks.apply(self.context.optimizer)

    def _due(self) -> int:
        return self.goal()


class DrawnPruner(StaticPruner):
    """Has the target sparsity, with a mask drawn at random."""

    def __init__(self, context: PruningContext) -> None:
        super().__init__(context)
        self.prune(context.schedule.target)
        self.masks.apply(context.optimizer)

    def prune(self, sparsity: float) -> None:
        """Draw the masks."""
        counts = self.shares(sparsity)
        for name, matrices in self.matrices.items():
            drawn = [self._drawn(matrix, counts[matrix.name]) for matrix in matrices]
            self.masks.set(name, torch.cat(drawn).to(self.context.weights[name].device))

    def _drawn(self, matrix: Matrix, count: int) -> Tensor:
        numbers = uniform(matrix.shape, self.context.seed, "first mask", matrix.name)
        return choose(keys(numbers), self.context.pattern, count)


class KeptPruner(StaticPruner):
    """Keeps the zeros that the weights have when it is built.

    Shares are of the blocks' matrices, and of the embedding if it has zeros.
    """

    def __init__(self, context: PruningContext) -> None:
        super().__init__(context)
        for name, weight in context.weights.items():
            zero = full_tensor(weight.detach()) == 0.0
            if bool(zero.any()):
                self.masks.set(name, zero)
        self._zeros = sum(self.masks.counts.values())
        self.masks.apply(context.optimizer)  # turns -0.0 into 0.0

    def prune(self, sparsity: float) -> None:
        """Do nothing: no event is ever due."""

    def goal(self) -> int:
        """Return the number of zeros at the start."""
        return self._zeros

    def sparsity(self) -> Sparsity:
        """Return the sparsity of the model."""
        counts, weights = self.masks.counts, self.context.weights
        held = sum(w.numel() for name, w in weights.items() if ".h." in name or counts[name])
        share = sum(counts.values()) / held
        found = super().sparsity()
        layers = {n: zero for n, zero in found.layers.items() if ".h." in n or zero}
        return dataclasses.replace(found, asked=share, reached=share, layers=layers)

    def state(self) -> dict[str, Tensor]:
        """Return the masks and the number of zeros that they keep."""
        return {**super().state(), _ZEROS: torch.tensor([self._zeros])}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the masks; those of the initial weights are dropped."""
        self.masks = Masks(self.context.weights, self.context.clear_state)
        self._zeros = int(state.get(_ZEROS, torch.zeros(1)))
        super().load({name: tensor for name, tensor in state.items() if name != _ZEROS})
