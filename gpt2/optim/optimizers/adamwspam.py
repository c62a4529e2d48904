"""AdamW with the three parts of SPAM (Huang et al. 2025, arXiv 2501.06842, algorithm 1).

Steps count from 1. In every `interval`-th both moments start anew; from the `grace`-th step after
that, gradients are clipped where their square is above `theta` times the second moment; and for
`warmup` steps after it the rate rises from a hundredth. Where the paper leaves something open it is
as in the authors' program: no warm-up before the first reset, bias correction counts on over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within

#: The share of the rate that is held back in the step of a reset.
HELD_BACK = 0.99


@dataclass(frozen=True)
class Options:
    """AdamW's options, and SPAM's own; the last three are None where nothing is reset."""

    beta1: Annotated[float, Within("[0, 1)")]
    beta2: Annotated[float, Within("[0, 1)")]
    eps: Annotated[float, Within("(0, inf)")]
    theta: int
    grace: int | None
    interval: int
    warmup: int | None
    restart_bias: bool | None

    def __post_init__(self) -> None:
        """Refuse a cycle that has no room for its parts. Raises ValueError."""
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
    """AdamW with spike-aware clipping, moments that start anew, and a warm-up after that.

    A group's `spam_step` is the number of steps taken, which with the moments is all its state.
    """

    def __init__(self, groups: list[dict[str, Any]], options: Options) -> None:
        self.options = options
        # Not fused: a step that is refused on the device would count here, on the host.
        super().__init__(
            groups, betas=(options.beta1, options.beta2), eps=options.eps, foreach=True
        )
        for group in self.param_groups:
            group["spam_step"] = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients are clipped in place."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        given = [(group["lr"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            group["spam_step"] += 1
            self._reset(group)
            self._clip(group)
            scale = self._scale(group["spam_step"])
            group["lr"] *= scale
            group["weight_decay"] /= scale  # decay goes by the rate that is logged
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
        """Bring gradients to at most the root of theta times the second moment, by entry.

        Where that is 0 nothing is known, and nothing is clipped: by the letter of the paper what
        had no gradient yet (rows of rare tokens, weights that RigL grows) would get none until the
        next reset.
        """
        options = self.options
        step = group["spam_step"]
        position = step % options.interval if options.interval else step
        if not options.theta or options.grace is None or position < options.grace:
            return
        states = self._states(group)
        gradients = [p.grad for p in group["params"] if p.grad is not None and self.state[p]]
        if not states:
            return
        limits = torch._foreach_sqrt([state["exp_avg_sq"] for state in states])
        torch._foreach_mul_(limits, math.sqrt(options.theta))
        for limit in limits:
            limit.masked_fill_(limit == 0.0, math.inf)
        torch._foreach_clamp_max_(gradients, limits)
        torch._foreach_neg_(limits)
        torch._foreach_clamp_min_(gradients, limits)

    def _scale(self, step: int) -> float:
        """Return the factor on the rate in `step`."""
        interval, warmup = self.options.interval, self.options.warmup
        if not interval or not warmup or step < interval:
            return 1.0
        return warmup_factor(step % interval, warmup)

    def _states(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the states of the parameters that have a gradient and a state."""
        return [self.state[p] for p in group["params"] if p.grad is not None and self.state[p]]


def warmup_factor(position: int, length: int) -> float:
    """Return the factor on the rate `position` steps after a reset: a cosine from 0.01 up to 1."""
    if position >= length:
        return 1.0
    return 1.0 - HELD_BACK * 0.5 * (1.0 + math.cos(math.pi * position / (length + 1)))


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build AdamW with SPAM over `groups`."""
    return AdamWSpam(groups, options)
