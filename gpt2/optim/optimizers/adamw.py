"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within
from gpt2.optim.groups import fused_where_possible


@dataclass(frozen=True)
class Options:
    """AdamW's own options."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]
    eps: Annotated[float, Within("(0, inf)")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's AdamW over `groups`."""
    betas = (options.beta1, options.beta2)
    fused = fused_where_possible(groups)
    return torch.optim.AdamW(groups, betas=betas, eps=options.eps, fused=fused)
