"""SET, sparse evolutionary training (Mocanu et al. 2018): sparse from the start, random growth.

Pattern (`erk`) and initial share are the paper's. There, the share stays the same for the whole
run, once an epoch; here it falls to 0 as RigL's does, so that the two methods differ in growth
only. The smallest magnitudes are dropped; the paper drops the smallest positive and the largest
negative weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from gpt2.config.typed import Within
from gpt2.prune.base import PruningContext
from gpt2.prune.dynamic import DynamicPruner
from gpt2.prune.pruner import Pruner
from gpt2.prune.seeded_random import uniform


@dataclass(frozen=True)
class Options:
    """SET's own options."""

    fraction: Annotated[float, Within("[0, 1]")]


def build(context: PruningContext, options: Options) -> Pruner:
    """Build the pruner."""

    def at_random(name: str, gradient: Tensor, step: int) -> Tensor:
        return uniform(gradient.shape, context.seed, "growth", name, step).to(gradient.device)

    return DynamicPruner(context, at_random, options.fraction)
