"""One-shot pruning by activations: block by block, each after the pruned ones before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gpt2.prune.base import MaskedPruner, PruningContext
from gpt2.prune.calibration import by_block


class LayerPruner(Protocol):
    """Prunes one linear layer, by the inputs it has collected."""

    def see(self, inputs: Tensor) -> None:
        """Add some inputs (N, in), fp32."""
        ...

    def prune(self, count: int, pattern: str, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Prune the matrix in `rows`, by itself.

        Return which `count` weights to prune (bool), and the weights that stay (both (out, in)).
        """
        ...


class OneShotPruner(MaskedPruner):
    """Prunes everything in one event; the rest of the run recovers."""

    def __init__(self, context: PruningContext, layer: Callable[[Tensor], LayerPruner]) -> None:
        super().__init__(context)
        self.layer = layer

    def prune(self, sparsity: float) -> None:
        """Prune the blocks in order: each block's inputs come from the pruned blocks before it."""
        context = self.context
        counts = self.shares(sparsity)
        for block in by_block(list(context.weights)):
            layers = {name: self.layer(context.weights[name].detach()) for name in block}
            context.calibration.run({name: layer.see for name, layer in layers.items()})
            for name, layer in layers.items():
                masks = []
                for m in self.matrices[name]:
                    pruned, weight = layer.prune(counts[m.name], context.pattern, m.rows)
                    context.weights[name].data[m.rows].copy_(weight.masked_fill(pruned, 0.0))
                    masks.append(pruned)
                self.masks.set(name, torch.cat(masks))
