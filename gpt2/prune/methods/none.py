"""No pruning: the dense control."""

from __future__ import annotations

from torch import Tensor, nn

from gpt2.prune.pruner import Pruner, Sparsity


class Dense:
    """A pruner that prunes nothing and has no state."""

    def observe(self, step: int) -> None:
        """Do nothing."""

    def apply(self, step: int) -> None:
        """Do nothing."""

    def sparsity(self) -> Sparsity:
        """Return zero, asked and reached."""
        return Sparsity(asked=0.0, reached=0.0)

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take nothing back."""


def build(model: nn.Module, options: None) -> Pruner:
    """Build the null pruner."""
    return Dense()
