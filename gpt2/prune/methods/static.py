"""A static random mask, sparse from the first step: the control of RigL and SET.

Evci et al. 2020 call it static. Pattern and initial mask are those of RigL and SET; with one seed
all three start from the same mask. The method `random` trains all weights at first: no control of a
sparse start.
"""

from __future__ import annotations

from gpt2.prune.base import PruningContext
from gpt2.prune.pruner import Pruner
from gpt2.prune.static import DrawnPruner


def build(context: PruningContext, options: None) -> Pruner:
    """Build the pruner."""
    return DrawnPruner(context)
