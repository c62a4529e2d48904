"""Dynamic sparsity: the target sparsity from the first step, with weights dropped and regrown."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from gpt2.machine.shards import full_tensor
from gpt2.prune.allocation import choose
from gpt2.prune.base import PruningContext
from gpt2.prune.static import DrawnPruner
from gpt2.prune.topk import LAST, keys


class Growth(Protocol):
    """Ranks the pruned weights for regrowth: the highest numbers grow."""

    def __call__(self, name: str, gradient: Tensor, step: int) -> Tensor:
        """Return a number for every weight of matrix `name`; `gradient` is dense, of its shape."""
        ...


class DynamicPruner(DrawnPruner):
    """Drops the smallest weights of each matrix and grows as many others, at every event.

    Evci et al. 2020, algorithm 1: the share of live weights that is replaced falls from `fraction`
    to 0 over the schedule, by half a cosine. A weight dropped at an event cannot grow at the same
    event, which the paper allows. Grown weights start at zero with zero optimizer state, and are
    updated in the same step: the gradient that chose them is also their first.

    Queries, keys and values are handled as separate matrices: gradients of values are far larger,
    so growth by gradient over all three would leave values alone.
    """

    def __init__(self, context: PruningContext, grow: Growth, fraction: float) -> None:
        super().__init__(context)
        self.grow = grow
        self.fraction = fraction

    def mask_gradients(self, step: int, progress: float) -> None:
        """Drop and grow when an event is due, by the dense gradients; then mask them."""
        if step and self.events.is_due(step, progress) and self._finite():
            position = self.context.schedule.position(progress)
            share = self.fraction / 2.0 * (1.0 + math.cos(math.pi * position))
            for name in self.context.weights:
                self._move(name, share, step)
            self.masks.apply(self.context.optimizer)
            self.events.advance(step, progress)
        super().mask_gradients(step, progress)

    def _finite(self) -> bool:
        """Return whether the gradients are finite; else the event waits for the next step."""
        gradients = [w.grad for w in self.context.weights.values() if w.grad is not None]
        norm = full_tensor(torch.nn.utils.get_total_norm(gradients))
        return bool(torch.isfinite(norm))

    def _move(self, name: str, share: float, step: int) -> None:
        weight = self.context.weights[name]
        if weight.grad is None:
            return
        values, gradient = full_tensor(weight.detach()), full_tensor(weight.grad)
        pruned = self.masks.pruned(name)
        for matrix in self.matrices[name]:
            rows, here = matrix.rows, pruned[matrix.rows]
            gone = self.masks.count(matrix)
            count = min(int(share * (here.numel() - gone)), gone)
            lowest = keys(values[rows].abs()).masked_fill(here, LAST)
            wanted = keys(-self.grow(matrix.name, gradient[rows], step)).masked_fill(~here, LAST)
            dropped = choose(lowest, self.context.pattern, count)
            grown = choose(wanted, self.context.pattern, count)
            pruned[rows] = (here & ~grown) | dropped
        self.masks.set(name, pruned)
