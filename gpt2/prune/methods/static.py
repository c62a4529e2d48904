"""A static mask: sparse from the first step in places drawn at random, the control of RigL and SET.

Evci et al. 2020, table 2, call it Static. Like there it is dense nowhere and never: the gradual
`random` method trains all weights at first, and is no control of a sparse start.
"""

from __future__ import annotations

from gpt2.prune.base import PruningContext
from gpt2.prune.dynamic import SparsePruner
from gpt2.prune.pruner import Pruner


def build(context: PruningContext, options: None) -> Pruner:
    """Build the pruner."""
    return SparsePruner(context)
