"""Stochastic gradient descent with momentum (Sutskever et al. 2013, in torch's form)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within
from gpt2.optim.groups import any_sharded, fused_where_possible

#: A weight of 0 with zero gradient and state stays exactly 0.
KEEPS_ZEROS = True


@dataclass(frozen=True)
class Options:
    """SGD's own options."""

    momentum: Annotated[float, Within("[0, 1)")]
    nesterov: bool

    def __post_init__(self) -> None:
        """Check that Nesterov momentum has a momentum.

        Raises ValueError.
        """
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("--sgd-nesterov needs an --sgd-momentum above 0")


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's SGD over `groups`."""
    optimizer = torch.optim.SGD(
        groups,
        momentum=options.momentum,
        nesterov=options.nesterov,
        # torch's fused SGD, unlike its fused Adam, does not support sharded parameters.
        fused=fused_where_possible(groups) and not any_sharded(groups),
    )
    if options.momentum > 0.0:
        # torch creates these in the first step, and leaves them unset when that step is skipped.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
