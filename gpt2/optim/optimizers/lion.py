"""Lion: every weight moves by the sign of its momentum (Chen et al. 2023, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within
from gpt2.machine.shards import local_shard
from gpt2.optim.closure import evaluated
from gpt2.optim.groups import on_gpu

#: A weight of 0 with zero gradient and state stays exactly 0.
KEEPS_ZEROS = True


@dataclass(frozen=True)
class Options:
    """Lion's own options."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]


class Lion(torch.optim.Optimizer):
    """Lion with decoupled weight decay; `exp_avg` is its only state."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        #: Whether `found_inf` skips a step without a read by the host.
        self.on_device = on_gpu(groups)
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = evaluated(closure)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step_group(group, parameters)
        return loss

    def _step_group(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
        weights = [local_shard(p) for p in parameters]
        gradients = [local_shard(p.grad) for p in parameters if p.grad is not None]
        averages = [local_shard(self.state[p]["exp_avg"]) for p in parameters]
        # Numbers, or tensors where only the device knows whether the step is skipped.
        beta1, beta2 = group["betas"]
        momentum, kept, decay = beta1, beta2, 1.0 - group["lr"] * group["weight_decay"]
        if hasattr(self, "found_inf"):
            skip = self.found_inf > 0.0
            for gradient in gradients:
                gradient.masked_fill_(skip, -0.0)  # adding -0.0 changes no bit
            momentum = torch.where(skip, 0.0, momentum)  # leaves no direction
            kept, decay = (torch.where(skip, 1.0, factor) for factor in (kept, decay))
        directions = torch._foreach_mul(averages, momentum)
        torch._foreach_add_(directions, gradients, alpha=1.0 - beta1)
        torch._foreach_sign_(directions)
        torch._foreach_mul_(weights, decay)
        torch._foreach_add_(weights, directions, alpha=-group["lr"])
        torch._foreach_mul_(averages, kept)
        torch._foreach_add_(averages, gradients, alpha=1.0 - beta2)


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build Lion over `groups`."""
    return Lion(groups, (options.beta1, options.beta2))
