"""An Adam-family optimizer with state pruning as its default pruning method.

It computes exactly what its base optimizer computes, under every pruning method. It only makes
`state` the default --pruning-method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config import plugins
from gpt2.config.typed import PLUGIN_PACKAGES, OptionsOf


@dataclass(frozen=True)
class Options:
    """The base optimizer's name and options."""

    base: str
    base_options: Annotated[Any, OptionsOf("ADAMWPRUNE_BASE", "OPTIMIZER")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build the base over `groups`."""
    base = plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], options.base)
    optimizer: torch.optim.Optimizer = base.build(groups, options.base_options)
    return optimizer
