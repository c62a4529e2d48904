"""What the loop asks of pruning. Not to prune is a pruner too, so the loop has no `if`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Sparsity:
    """Shares of pruned weights, in [0, 1].

    asked, reached: of the prunable weights. whole: of all parameters of the model. layers: of each
    prunable matrix, by the name of its parameter. final: whether it will stay as it is, so that a
    loss measured now is one of the model that was asked for.
    """

    asked: float
    reached: float
    final: bool = True
    whole: float = 0.0
    layers: Mapping[str, float] = field(default_factory=dict)


class Pruner(Protocol):
    """The verbs of pruning in one training step, in this order.

    `step` counts the finished steps, `progress` is the share of the run that is done, in [0, 1].
    """

    def mask_gradients(self, step: int, progress: float) -> None:
        """Set the gradients of pruned weights to zero. They are true, complete and not clipped."""
        ...

    def observe(self, skip: Tensor) -> None:
        """Look at the gradients of a step, which will not be made if `skip` (bool, 0-d)."""
        ...

    def apply(self, step: int, progress: float) -> None:
        """Set weights to zero after an update; pruned ones stay zero."""
        ...

    def sparsity(self) -> Sparsity:
        """Say how sparse the model is. Asks nothing of the device."""
        ...

    def verify(self) -> None:
        """Check, at the end of a run, that what was asked is reached. Raises UserError."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold, by name."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave. Raises UserError where it contradicts the weights."""
        ...
