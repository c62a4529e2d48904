"""Muon (Jordan et al. 2024) for the matrices of linear layers, AdamW for everything else.

A matrix moves along its momentum with all singular values set to about 1. Source: Jordan et al.,
"Muon: An optimizer for hidden layers in neural networks", 2024. The second rate adjustment is from
Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from gpt2.config.typed import Auto, Within
from gpt2.machine.shards import deal, gather_dealt, local_shard, ranks_of
from gpt2.model.matrices import matrices_of
from gpt2.optim.closure import evaluated
from gpt2.optim.groups import fused_where_possible

#: Coefficients of the odd polynomial that each Newton-Schulz step applies to singular values.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
#: Smaller norms are clamped to this before division.
SMALLEST = 1e-7
#: Most numbers orthogonalised at once: larger batches save no time, but cost memory.
AT_ONCE = 2**24
#: Steps on one Gram matrix before it is computed anew: each multiplies rounding errors by up to 12.
BY_GRAM = 5
#: AdamW's learning rate when it is `auto`, as a share of the matrices' rate.
ADAMW_SHARE = 0.2


@dataclass(frozen=True)
class Options:
    """Muon's own options, and those of its AdamW."""

    momentum: Annotated[float, Within("[0, 1)")]
    nesterov: bool
    ns_steps: int
    split_qkv: bool
    adjust: str
    adamw_lr: Annotated[float | None, Auto(), Within("[0, inf)")]
    adamw_beta1: Annotated[float, Within("[0, 1)")]
    adamw_beta2: Annotated[float, Within("[0, 1)")]
    adamw_eps: Annotated[float, Within("(0, inf)")]


class Muon(torch.optim.AdamW):
    """AdamW that updates the groups of role `matrix` by Muon; their parameters are 2-D.

    Singular values need the whole matrix. Where parameters are sharded, whole matrices are dealt to
    the ranks: each orthogonalises some, and sends the others their rows.
    """

    def __init__(self, groups: list[dict[str, Any]], options: Options) -> None:
        self.options = options
        super().__init__(
            groups,
            betas=(options.adamw_beta1, options.adamw_beta2),
            eps=options.adamw_eps,
            fused=fused_where_possible(groups),
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load saved state; Adam's own version expects a step count in all of it."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = evaluated(closure)
        groups = self.param_groups
        for group in groups:
            if group["role"] == "matrix":
                self._step_matrices(group)
        self.param_groups = [group for group in groups if group["role"] != "matrix"]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        # Only fused optimizers are called with a non-finite gradient: then nothing may change.
        accepted = 1.0 - self.found_inf if hasattr(self, "found_inf") else None
        factor = 1.0 if accepted is None else accepted
        decay = group["lr"] * group["weight_decay"]
        dealt = 0  # rotates which ranks get one more
        for parameters, parts in self._batches(group):
            like, count = parameters[0], len(parameters)
            directions = deal([self._direction(p, accepted) for p in parameters], like, dealt)
            matrices = directions.unflatten(1, (parts, -1)).flatten(0, 1)
            if len(matrices):
                matrices = orthogonalised(matrices, self.options.ns_steps)
            updates = gather_dealt(matrices.reshape(directions.shape), count, like, dealt)
            dealt += count
            rate = group["lr"] * adjustment(self.options.adjust, *matrices.shape[1:])
            for parameter, update in zip(parameters, updates, strict=True):
                own = local_shard(parameter)
                own.mul_(1.0 - decay * factor)
                own.sub_(update * (rate * factor))

    def _batches(self, group: dict[str, Any]) -> Iterator[tuple[list[Tensor], int]]:
        """Yield batches of parameters of one shape, and how many matrices each parameter stacks."""
        alike: dict[tuple[torch.Size, torch.dtype, int], list[Tensor]] = {}
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if parameter.grad is not None:
                parts = len(matrices_of(name, parameter.shape)) if self.options.split_qkv else 1
                alike.setdefault((parameter.shape, parameter.dtype, parts), []).append(parameter)
        for (shape, _, parts), found in alike.items():
            # Each rank gets its full share of a dealt batch.
            size = max(1, AT_ONCE // shape.numel()) * ranks_of(found[0])
            for start in range(0, len(found), size):
                yield found[start : start + size], parts

    def _direction(self, parameter: Tensor, accepted: Tensor | None) -> Tensor:
        """Update the momentum by the gradient; return the direction for this rank's rows."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        gradient, momentum = (local_shard(t) for t in (parameter.grad, state["momentum_buffer"]))
        if accepted is not None:
            gradient = torch.where(accepted > 0.0, gradient, momentum)  # momentum stays unchanged
        momentum.lerp_(gradient, 1.0 - self.options.momentum)
        return gradient.lerp(momentum, self.options.momentum if self.options.nesterov else 1.0)


def adjustment(kind: str, rows: int, columns: int) -> float:
    """Return the factor on the learning rate of a matrix of this shape.

    original: tall matrices move as much as square ones. match-rms-adamw: updates of every shape
    have the root mean square typical of AdamW, 0.2.
    """
    if kind == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def orthogonalised(batch: Tensor, steps: int) -> Tensor:
    """Return matrices (B, m, n) with all singular values near 1, by Newton-Schulz steps.

    Five steps bring singular values above a hundredth of the Frobenius norm to about 0.7 to 1.2.
    Computes in bf16 on CUDA, else in at least fp32: CPUs without native bf16 are many times slower
    in it.
    """
    a, b, c = COEFFICIENTS
    tall = batch.size(1) > batch.size(2)
    x = batch.mT if tall else batch  # makes the Gram matrix the smaller one
    x = x.to(torch.bfloat16 if x.is_cuda else torch.promote_types(x.dtype, torch.float32))
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=SMALLEST)
    if x.dtype != torch.bfloat16 and x.size(2) >= 2 * x.size(1):
        for first in range(0, steps, BY_GRAM):
            x = _by_gram(x, min(BY_GRAM, steps - first))
    else:
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(batch.dtype)


def _by_gram(x: Tensor, steps: int) -> Tensor:
    """Return `x` (B, m, n) after `steps` steps, with only two products of size n.

    A step multiplies x from the left by a polynomial of its Gram matrix (m, m). These polynomials
    commute, so they are multiplied together and the Gram matrix is updated along. This takes 0.6 of
    the time where n = 4 m. bf16 cannot hold the squares of small singular values.
    """
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    polynomial = factor = torch.eye(x.size(1), dtype=x.dtype, device=x.device)
    for step in range(steps):
        if step:
            gram = polynomial @ polynomial @ gram
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        factor = polynomial @ factor if step else polynomial
    return factor @ x


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build Muon over `groups`: their rate is the matrices' rate; the others get AdamW's."""
    for group in groups:
        if group["role"] != "matrix":
            own = options.adamw_lr
            group["lr"] = ADAMW_SHARE * group["lr"] if own is None else own
    return Muon(groups, options)
