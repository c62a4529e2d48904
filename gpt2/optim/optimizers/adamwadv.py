"""AdamW that divides by the largest second moment so far (AMSGrad, Reddi et al. 2018, alg. 2).

The default beta2 is 0.999, a long average. The maximum of a short, noisy average would only rise,
and keep the worst noise for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within
from gpt2.optim.groups import fused_where_possible

#: A weight of 0 with zero gradient and state stays exactly 0.
KEEPS_ZEROS = True


@dataclass(frozen=True)
class Options:
    """AdamW's options, with AMSGrad."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]
    eps: Annotated[float, Within("(0, inf)")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's AdamW with AMSGrad over `groups`."""
    betas = (options.beta1, options.beta2)
    fused = fused_where_possible(groups)
    return torch.optim.AdamW(groups, betas=betas, eps=options.eps, amsgrad=True, fused=fused)
