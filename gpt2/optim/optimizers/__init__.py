"""Plug-ins: one optimizer per NAME.py and NAME.Kconfig.

Each has `build(groups, options) -> torch.optim.Optimizer` and, when it has options of its own, a
frozen dataclass `Options`. NAME.Kconfig adds OPTIMIZER_NAME, NAME_X for its option `x`, and its own
default learning rate and weight decay. Where some of it can only be refused when a library is
imported, `check(optim, ranks)` does that before there is a run directory.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class OptimizerPlugin(Protocol):
    """What a module in this package offers."""

    def build(self, groups: list[dict[str, Any]], options: Any) -> torch.optim.Optimizer:
        """Build the optimizer over `groups` (see gpt2.optim.groups)."""
        ...
