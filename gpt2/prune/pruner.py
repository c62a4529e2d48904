"""What the loop asks of pruning. Not to prune is a pruner too, so the loop has no `if`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Sparsity:
    """Shares of zero weights, in [0, 1]: asked for, and reached, of the prunable ones."""

    asked: float
    reached: float


class Pruner(Protocol):
    """The verbs of pruning in one training step."""

    def observe(self, step: int) -> None:
        """Look at the true, complete gradients of step `step`, before clipping."""
        ...

    def apply(self, step: int) -> None:
        """Set weights to zero after the update of step `step`; pruned ones stay zero."""
        ...

    def sparsity(self) -> Sparsity:
        """Count the sparsity now."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold, by name."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        ...
