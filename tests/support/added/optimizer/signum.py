"""Signum: steps of one size by the sign of the momentum (Bernstein et al. 2018, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within


@dataclass(frozen=True)
class Options:
    """Signum's own options."""

    momentum: Annotated[float, Within("[0, 1)")]


class Signum(torch.optim.Optimizer):
    """Signum with weight decay apart from the gradient."""

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                state["mean"].lerp_(parameter.grad, 1.0 - group["momentum"])
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.sub_(state["mean"].sign(), alpha=group["lr"])


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build Signum over `groups`."""
    return Signum(groups, options.momentum)
