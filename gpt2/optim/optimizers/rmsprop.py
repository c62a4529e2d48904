"""RMSprop: rates by a mean of squared gradients (Tieleman and Hinton 2012, lecture 6.5).

Weight decay is added to the gradient (L2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within


@dataclass(frozen=True)
class Options:
    """RMSprop's own options."""

    alpha: Annotated[float, Within("[0, 1)")]
    momentum: Annotated[float, Within("[0, 1)")]
    eps: Annotated[float, Within("(0, inf)")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's RMSprop over `groups`."""
    return torch.optim.RMSprop(
        groups, alpha=options.alpha, momentum=options.momentum, eps=options.eps
    )
