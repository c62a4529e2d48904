"""Plug-ins: one pruning method per file, each with `build(model, options) -> Pruner`."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from gpt2.prune.pruner import Pruner


class PruningPlugin(Protocol):
    """What a module in this package offers."""

    def build(self, model: nn.Module, options: Any) -> Pruner:
        """Build the pruner of `model`."""
        ...
