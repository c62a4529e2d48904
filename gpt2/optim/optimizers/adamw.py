"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Named, Within
from gpt2.optim.adam_bf16 import Bf16StateAdam
from gpt2.optim.groups import fused_where_possible

#: A weight of 0 with zero gradient and state stays exactly 0.
KEEPS_ZEROS = True


@dataclass(frozen=True)
class Options:
    """AdamW's own options."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]
    eps: Annotated[float, Within("(0, inf)")]
    state_precision: Annotated[str, Named("OPTIMIZER_STATE_PRECISION")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's AdamW over `groups`, or our AdamW with bf16 state."""
    betas = (options.beta1, options.beta2)
    if options.state_precision == "bf16":
        return Bf16StateAdam(groups, betas, options.eps, decoupled=True)
    fused = fused_where_possible(groups)
    return torch.optim.AdamW(groups, betas=betas, eps=options.eps, fused=fused)
