"""Lion: steps of equal size by the sign of the momentum (Chen et al. 2023, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within

#: A weight of zero whose gradient and state are zero stays zero, to the bit.
KEEPS_ZEROS = True


@dataclass(frozen=True)
class Options:
    """Lion's own options."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]


class Lion(torch.optim.Optimizer):
    """Lion, with weight decay apart from the gradient; `exp_avg` is its one state."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step_group(group, parameters)
        return loss

    def _step_group(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        beta1, beta2 = group["betas"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
        averages = [self.state[p]["exp_avg"] for p in parameters]
        directions = torch._foreach_mul(averages, beta1)
        torch._foreach_add_(directions, gradients, alpha=1.0 - beta1)
        torch._foreach_sign_(directions)
        torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])
        torch._foreach_mul_(averages, beta2)
        torch._foreach_add_(averages, gradients, alpha=1.0 - beta2)


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build Lion over `groups`."""
    return Lion(groups, (options.beta1, options.beta2))
