"""The pruner's interface to the loop. No pruning is a pruner, too: the loop has no `if`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Sparsity:
    """Shares of pruned weights, in [0, 1].

    asked, reached: of the prunable weights.
    whole: of all parameters of the model.
    layers: of each prunable matrix, by name.
    final: whether the sparsity will not change any more, so that a loss measured now is one of the
        model that was asked for.
    """

    asked: float
    reached: float
    final: bool = True
    whole: float = 0.0
    layers: Mapping[str, float] = field(default_factory=dict)


class Pruner(Protocol):
    """The calls of one training step, in this order.

    `step` counts the finished steps; `progress` is the finished share of the run, in [0, 1].
    """

    def mask_gradients(self, step: int, progress: float) -> None:
        """Set the gradients of pruned weights to zero. They are unscaled, complete, unclipped."""
        ...

    def observe(self, skip: Tensor) -> None:
        """Read the gradients of a step; the step is skipped if `skip` (bool, 0-d)."""
        ...

    def apply(self, step: int, progress: float) -> None:
        """Set weights to zero after an update; pruned ones stay zero."""
        ...

    def sparsity(self) -> Sparsity:
        """Return the sparsity of the model, without waiting for the device."""
        ...

    def verify(self) -> None:
        """Check, at the end of a run, that the target is reached.

        Raises UserError.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the checkpointed tensors, by name."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the result of state().

        Raises UserError where it contradicts the weights.
        """
        ...
