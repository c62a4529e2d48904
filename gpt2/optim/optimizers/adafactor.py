"""Adafactor: a second moment kept as row and column means (Shazeer and Stern 2018, algorithm 4).

Its learning rate is relative to the root mean square of the parameter, and at most 1/sqrt(step).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from gpt2.config.typed import Within
from gpt2.optim.closure import evaluated
from gpt2.optim.groups import on_gpu


@dataclass(frozen=True)
class Options:
    """Adafactor's own options."""

    decay: Annotated[float, Within("(0, 1]")]
    clip: Annotated[float, Within("[1, inf)")]
    eps: Annotated[float, Within("(0, inf)")]


class Adafactor(torch.optim.Adafactor):
    """torch's Adafactor; on a GPU the same formula and state without reading values back.

    torch's reads two norms of every parameter, and a GPU waits for each.
    """

    def __init__(self, groups: list[dict[str, Any]], options: Options) -> None:
        #: Whether the device makes every decision; `found_inf` skips a step.
        self.on_device = on_gpu(groups)
        eps = (1e-15, options.eps)
        super().__init__(groups, beta2_decay=-options.decay, eps=eps, d=options.clip)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        if not self.on_device:
            return super().step(closure)
        loss = evaluated(closure)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step_group(group, parameters)
        return loss

    def _step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        none = torch.zeros((), device=parameters[0].device)
        found_inf = self.found_inf if hasattr(self, "found_inf") else none
        skip, made = found_inf > 0.0, 1.0 - found_inf
        states = [self._begun(parameter) for parameter in parameters]
        steps = [state["step"] for state in states]
        counts = torch.stack(steps).to(parameters[0].dtype) + 1.0  # including this step
        shares = counts.pow(group["beta2_decay"]).mul_(made).unbind()
        rates = counts.rsqrt().clamp_(max=group["lr"]).mul_(made).unbind()
        torch._foreach_add_(steps, [made] * len(steps))  # a single tensor would be read back
        kept = torch.where(skip, 1.0, 1.0 - group["lr"] * group["weight_decay"])
        for parameter, state, share, rate in zip(parameters, states, shares, rates, strict=True):
            assert parameter.grad is not None
            parameter.grad.masked_fill_(skip, 0.0)
            _update(group, parameter, parameter.grad, state, share, rate, kept)

    def _begun(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the state of a parameter, in the form of torch's; create it if needed."""
        state: dict[str, Tensor] = self.state[parameter]
        shape = parameter.shape
        if not state and parameter.ndim > 1:
            state["row_var"] = parameter.new_zeros((*shape[:-1], 1))
            state["col_var"] = parameter.new_zeros((*shape[:-2], 1, shape[-1]))
        elif not state:
            state["variance"] = torch.zeros_like(parameter)
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        elif state["step"].device != parameter.device:  # of a run that began with torch's
            state["step"] = state["step"].to(parameter.device)
        return state


def _update(
    group: dict[str, Any],
    weight: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    share: Tensor,
    rate: Tensor,
    kept: Tensor,
) -> None:
    """Update a weight; share of the new square, rate and decay factor are 0-d."""
    least, smallest = group["eps"]
    least = torch.finfo(weight.dtype).eps if least is None else least
    root = math.sqrt(weight.numel())
    alpha = weight.norm().div_(root).clamp_(min=smallest).mul_(rate)
    if group["weight_decay"]:
        weight.mul_(kept)
    if gradient.ndim > 1:
        row, column = state["row_var"], state["col_var"]
        for mean, dim in ((row, -1), (column, -2)):
            norm = torch.linalg.vector_norm(gradient, dim=dim, keepdim=True)
            mean.lerp_(norm.square_().div_(gradient.size(dim)), share)
        estimate = (row @ column).div_(row.mean(dim=-2, keepdim=True).clamp_(min=least))
    else:
        state["variance"].lerp_(gradient.square(), share)
        estimate = state["variance"].clone()
    update = estimate.clamp_(min=least * least).rsqrt_().mul_(gradient)
    alpha.div_(update.norm().div_(root * group["d"]).clamp_(min=1.0))
    weight.addcmul_(update, alpha, value=-1.0)


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build Adafactor over `groups`.

    The paper adds 1e-30 to every squared gradient. torch squares its epsilon to get the smallest
    second moment, hence 1e-15. It also uses epsilon itself as the smallest mean squared gradient of
    a matrix. Its default there, fp32's resolution (1.2e-7), is above that mean once a clipped model
    has some eight million weights. 1e-15 only affects gradients below 3e-8.
    """
    return Adafactor(groups, options)
