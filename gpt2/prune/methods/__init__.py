"""Plug-ins: one pruning method per file, each with `build(context, options) -> Pruner`.

Most are a score: see gpt2.prune.gradual. A file NAME.py is the Kconfig symbol PRUNING_METHOD_NAME;
its option `x` is NAME_X.
"""

from __future__ import annotations

from typing import Any, Protocol

from gpt2.prune.base import PruningContext
from gpt2.prune.pruner import Pruner


class PruningPlugin(Protocol):
    """What a module in this package offers."""

    def build(self, context: PruningContext, options: Any) -> Pruner:
        """Build the pruner of a model."""
        ...
