"""Plug-ins: one optimizer per NAME.py and NAME.Kconfig.

Each has `build(groups, options) -> torch.optim.Optimizer` and, when it has options, a frozen
dataclass `Options`. NAME.Kconfig adds OPTIMIZER_NAME, NAME_X for its option `x`, and its own
defaults for learning rate and weight decay. An optional `check(optim, ranks)` refuses, before the
run directory exists, what only an imported library can tell.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class OptimizerPlugin(Protocol):
    """The functions of a module in this package."""

    def build(self, groups: list[dict[str, Any]], options: Any) -> torch.optim.Optimizer:
        """Build the optimizer over `groups` (see gpt2.optim.groups)."""
        ...
