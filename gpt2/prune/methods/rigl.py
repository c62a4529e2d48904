"""RigL (Evci et al. 2020): sparse from the start; what has the largest gradients grows.

Their defaults: pattern `erk`, alpha 0.3, growth until three quarters of the run. Theirs is an event
every 100 of 32,000 steps, here one each twentieth of the ramp. dynamic.py says what else differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from gpt2.config.typed import Within
from gpt2.prune.base import PruningContext
from gpt2.prune.dynamic import DynamicPruner
from gpt2.prune.pruner import Pruner


@dataclass(frozen=True)
class Options:
    """RigL's own options."""

    fraction: Annotated[float, Within("[0, 1]")]


def largest_gradient(name: str, gradient: Tensor, step: int) -> Tensor:
    """Return |dL/dw|, dense: what would move most if it were there."""
    return gradient.abs()


def build(context: PruningContext, options: Options) -> Pruner:
    """Build the pruner."""
    return DynamicPruner(context, largest_gradient, options.fraction)
