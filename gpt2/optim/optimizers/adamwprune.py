"""An optimizer of the Adam family, made to be pruned by its state.

Every number of it is that of its base, under every pruning method: what it adds is the choice of
`state` as the method that is used unless another is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config import plugins
from gpt2.config.typed import PLUGIN_PACKAGES, OptionsOf


@dataclass(frozen=True)
class Options:
    """Which optimizer it is, and that one's own options."""

    base: str
    base_options: Annotated[Any, OptionsOf("ADAMWPRUNE_BASE", "OPTIMIZER")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build the base over `groups`."""
    base = plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], options.base)
    optimizer: torch.optim.Optimizer = base.build(groups, options.base_options)
    return optimizer
