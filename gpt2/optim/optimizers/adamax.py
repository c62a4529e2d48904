"""AdaMax: Adam with the largest gradient so far as scale (Kingma and Ba 2015, algorithm 2).

Weight decay is added to the gradient (L2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within


@dataclass(frozen=True)
class Options:
    """AdaMax's own options."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]
    eps: Annotated[float, Within("(0, inf)")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's Adamax over `groups`."""
    return torch.optim.Adamax(groups, betas=(options.beta1, options.beta2), eps=options.eps)
