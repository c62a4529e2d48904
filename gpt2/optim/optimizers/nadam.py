"""NAdam: Adam with Nesterov momentum (Dozat 2016), with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within


@dataclass(frozen=True)
class Options:
    """NAdam's own options."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]
    eps: Annotated[float, Within("(0, inf)")]
    momentum_decay: Annotated[float, Within("[0, inf)")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's NAdam over `groups`."""
    return torch.optim.NAdam(
        groups,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        momentum_decay=options.momentum_decay,
        decoupled_weight_decay=True,
    )
