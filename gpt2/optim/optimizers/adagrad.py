"""Adagrad: rates by the sum of all squared gradients (Duchi et al. 2011, figure 1).

Weight decay is added to the gradient (L2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within


@dataclass(frozen=True)
class Options:
    """Adagrad's own options."""

    eps: Annotated[float, Within("(0, inf)")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's Adagrad over `groups`."""
    return torch.optim.Adagrad(groups, eps=options.eps)
