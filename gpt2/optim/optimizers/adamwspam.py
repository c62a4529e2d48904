"""AdamW with the three parts of SPAM (Huang et al. 2025, arXiv 2501.06842, algorithm 1).

Steps count from 1. Every `interval`-th step resets both moments. From the `grace`-th step after a
reset, gradients are clipped where their square is above `theta` times the second moment. For
`warmup` steps after a reset the learning rate rises from a hundredth. Where the paper leaves
something open, the authors' program decides: no warm-up before the first reset, and bias correction
continues over a reset.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from gpt2.config.typed import Within
from gpt2.machine.shards import local_shard
from gpt2.optim.closure import evaluated
from gpt2.optim.groups import on_gpu

MOMENTS = ("exp_avg", "exp_avg_sq")
#: The share of the rate that the step of a reset takes away.
HELD_BACK = 0.99


@dataclass(frozen=True)
class Options:
    """AdamW's options, and SPAM's own; the last three are None without resets."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]
    eps: Annotated[float, Within("(0, inf)")]
    theta: int
    grace: int | None
    interval: int
    warmup: int | None
    restart_bias: bool | None

    def __post_init__(self) -> None:
        """Check that the cycle has room for its parts.

        Raises ValueError.
        """
        if not self.interval:
            return
        if self.grace is not None and self.grace >= self.interval:
            raise ValueError(
                f"--adamwspam-grace {self.grace} must be below --adamwspam-interval "
                f"{self.interval}, or nothing is ever clipped"
            )
        if self.warmup is not None and self.warmup > self.interval:
            raise ValueError(
                f"--adamwspam-warmup {self.warmup} must be at most --adamwspam-interval "
                f"{self.interval}, or the rate would never be reached"
            )


class AdamWSpam(torch.optim.AdamW):
    """AdamW with spike-aware clipping, moment resets, and a warm-up after each reset.

    A group's `spam_step` counts its steps; with the moments it is all the state. On a GPU it is a
    tensor, and factors and masks replace decisions of the host.
    """

    def __init__(self, groups: list[dict[str, Any]], options: Options) -> None:
        self.options = options
        #: Whether the device counts and makes every decision; `found_inf` skips a step.
        self.on_device = on_gpu(groups)
        # Not fused: the host counts steps here, so it must know of a skipped step.
        super().__init__(
            groups, betas=(options.beta1, options.beta2), eps=options.eps, foreach=True
        )
        for group in self.param_groups:
            group["spam_step"] = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients are clipped in place."""
        loss = evaluated(closure)
        if self.on_device:
            for group in self.param_groups:
                self._step_on_device(group)
            return loss
        given = [(group["lr"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            group["spam_step"] = int(group["spam_step"]) + 1  # a GPU's is a tensor
            self._reset(group)
            self._clip(group)
            scale = self._scale(group["spam_step"])
            group["lr"] *= scale
            group["weight_decay"] /= scale  # weight decay follows the logged rate
        super().step()
        for group, (rate, decay) in zip(self.param_groups, given, strict=True):
            group["lr"], group["weight_decay"] = rate, decay
        return loss

    def _reset(self, group: dict[str, Any]) -> None:
        if not self.options.interval or group["spam_step"] % self.options.interval:
            return
        for state in self._states(group):
            state["exp_avg"].zero_()
            state["exp_avg_sq"].zero_()
            if self.options.restart_bias:
                state["step"].zero_()

    def _clip(self, group: dict[str, Any]) -> None:
        """Clip each gradient entry to sqrt(theta times its second moment).

        Entries whose second moment is 0 are not clipped. By the letter of the paper, entries
        without a gradient so far would get none until the next reset: rows of rare tokens, weights
        that RigL grows.
        """
        options = self.options
        step = group["spam_step"]
        position = step % options.interval if options.interval else step
        if not options.theta or options.grace is None or position < options.grace:
            return
        states = self._states(group)
        gradients = [p.grad for p in group["params"] if p.grad is not None and self.state[p]]
        if states:
            self._clip_to([state["exp_avg_sq"] for state in states], gradients)

    def _clip_to(
        self, second: list[Tensor], gradients: list[Tensor], idle: Tensor | None = None
    ) -> None:
        """Clip in place by the second moments, unless `idle` (bool, 0-d) is true."""
        limits = torch._foreach_sqrt(second)
        torch._foreach_mul_(limits, math.sqrt(self.options.theta))
        for limit in limits:
            unknown = limit == 0.0
            limit.masked_fill_(unknown if idle is None else unknown | idle, math.inf)
        torch._foreach_clamp_max_(gradients, limits)
        torch._foreach_neg_(limits)
        torch._foreach_clamp_min_(gradients, limits)

    def _scale(self, step: int) -> float:
        """Return the factor on the rate in `step`."""
        interval, warmup = self.options.interval, self.options.warmup
        if not interval or not warmup or step < interval:
            return 1.0
        return warmup_factor(step % interval, warmup)

    def _step_on_device(self, group: dict[str, Any]) -> None:
        """Update a group's parameters that have a gradient, without reading values back."""
        options, device = self.options, group["params"][0].device
        none = torch.zeros((), device=device)
        found_inf = self.found_inf if hasattr(self, "found_inf") else none
        skip, taken = found_inf > 0.0, _counted(group["spam_step"], device)
        step = taken + 1
        group["spam_step"] = torch.where(skip, taken, step)
        position = step % options.interval if options.interval else step
        found = [(p, p.grad, self._begun(p)) for p in group["params"] if p.grad is not None]
        if not found:
            return
        weights = [local_shard(parameter) for parameter, _, _ in found]
        gradients = [local_shard(gradient) for _, gradient, _ in found]
        first, second = ([local_shard(s[key]) for _, _, s in found] for key in MOMENTS)
        steps = [state["step"] for _, _, state in found]
        if options.interval:
            reset = (position == 0) & ~skip
            for moment in (*first, *second):
                moment.masked_fill_(reset, 0.0)
            if options.restart_bias:
                torch._foreach_mul_(steps, 1.0 - reset.float())
        if options.theta and options.grace is not None:
            self._clip_to(second, gradients, position < options.grace)
        rate = group["lr"]
        if options.interval and options.warmup:
            rate = rate * _warmup_on_device(step, position, options.interval, options.warmup)
        kept = torch.where(skip, 1.0, 1.0 - group["lr"] * group["weight_decay"])
        if group["weight_decay"]:
            torch._foreach_mul_(weights, kept)  # follows the logged rate
        adam(
            weights, gradients, first, second, [], steps,
            foreach=False, fused=True, found_inf=found_inf, amsgrad=False, maximize=False,
            beta1=options.beta1, beta2=options.beta2, lr=rate, weight_decay=0.0, eps=options.eps,
        )  # fmt: skip

    def _begun(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the state of a parameter, its step count on the device; create it if needed."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for key in MOMENTS:
                state[key] = torch.zeros_like(parameter)
        state["step"] = state["step"].to(parameter.device)
        return state

    def _states(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the states of the parameters that have a gradient and a state."""
        return [self.state[p] for p in group["params"] if p.grad is not None and self.state[p]]


def warmup_factor(position: int, length: int) -> float:
    """Return the factor on the rate `position` steps after a reset: a cosine from 0.01 up to 1."""
    if position >= length:
        return 1.0
    return 1.0 - HELD_BACK * 0.5 * (1.0 + math.cos(math.pi * position / (length + 1)))


def _warmup_on_device(step: Tensor, position: Tensor, interval: int, length: int) -> Tensor:
    """Return the factor on the rate: 1 until the first reset, then as in warmup_factor."""
    rise = 1.0 - HELD_BACK * 0.5 * (1.0 + torch.cos(math.pi * position / (length + 1)))
    return torch.where((step >= interval) & (position < length), rise, 1.0)


def _counted(steps: int | Tensor, device: torch.device) -> Tensor:
    """Return a step count on the device, without a wait unless it is on another one."""
    if isinstance(steps, Tensor):
        return steps.to(device)
    return torch.full((), steps, dtype=torch.int64, device=device)


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build AdamW with SPAM over `groups`."""
    return AdamWSpam(groups, options)
