"""Plug-ins: one pruning method per NAME.py and NAME.Kconfig.

Each has `build(context, options) -> Pruner`. Most are a score: see gpt2.prune.gradual. NAME.Kconfig
adds PRUNING_METHOD_NAME, and NAME_X for its option `x`.
"""

from __future__ import annotations

from typing import Any, Protocol

from gpt2.prune.base import PruningContext
from gpt2.prune.pruner import Pruner


class PruningPlugin(Protocol):
    """The functions of a module in this package."""

    def build(self, context: PruningContext, options: Any) -> Pruner:
        """Build the pruner of a model."""
        ...
