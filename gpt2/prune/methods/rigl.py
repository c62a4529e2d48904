"""RigL (Evci et al. 2020): sparse from the start; grow weights with the largest gradients.

Defaults as in the paper: pattern `erk`, alpha 0.3, growth until three quarters of the run. The
paper has an event every 100 of 32,000 steps, here every twentieth of the schedule. dynamic.py lists
the other differences.
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
    """Return |dL/dw|, dense: the weights that would move most if they were live."""
    return gradient.abs()


def build(context: PruningContext, options: Options) -> Pruner:
    """Build the pruner."""
    return DynamicPruner(context, largest_gradient, options.fraction)
