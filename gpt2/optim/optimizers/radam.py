"""RAdam: Adam with a rectified learning rate (Liu et al. 2020, algorithm 2).

Early steps leave out the second moment, while its estimate is unreliable. Weight decay is
decoupled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within


@dataclass(frozen=True)
class Options:
    """RAdam's own options."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]
    eps: Annotated[float, Within("(0, inf)")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's RAdam over `groups`."""
    betas = (options.beta1, options.beta2)
    return torch.optim.RAdam(groups, betas=betas, eps=options.eps, decoupled_weight_decay=True)
