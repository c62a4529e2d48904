"""No pruning: the dense control."""

from __future__ import annotations

from torch import Tensor

from gpt2.prune.base import PruningContext
from gpt2.prune.pruner import Pruner, Sparsity


class Dense:
    """A pruner that prunes nothing and has no state."""

    def mask_gradients(self, step: int, progress: float) -> None:
        """Do nothing."""

    def observe(self, skip: Tensor) -> None:
        """Do nothing."""

    def apply(self, step: int, progress: float) -> None:
        """Do nothing."""

    def sparsity(self) -> Sparsity:
        """Return a sparsity of zero."""
        return Sparsity(asked=0.0, reached=0.0)

    def verify(self) -> None:
        """Do nothing."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Do nothing."""


def build(context: PruningContext, options: None) -> Pruner:
    """Build the pruner that prunes nothing."""
    return Dense()
