"""Adam and AdamW with both moments in bf16 and arithmetic in fp32: half the optimizer state.

bf16 rounds in steps of 1/128 to 1/256. Rounded to nearest, a second moment would never change by
less than that: with beta2 0.999, one that is up to three times too large would never fall.
Stochastic rounding is right on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from gpt2.machine.shards import local_shard
from gpt2.optim import stochastic_rounding as rounding
from gpt2.optim.closure import evaluated
from gpt2.optim.groups import fused_where_possible

MOMENTS = ("exp_avg", "exp_avg_sq")
#: Most numbers whose moments are in fp32 at once.
AT_ONCE = 2**22


@dataclass
class _Piece:
    """A flat slice of one parameter: its weights, gradients, moments and step count."""

    weight: Tensor
    gradient: Tensor
    moments: list[Tensor]
    step: Tensor

    def cut(self, sizes: list[int]) -> list[_Piece]:
        """Split it into slices of these sizes; only the last updates the step count, not a copy."""
        if len(sizes) == 1:
            return [self]
        moments = zip(*(moment.split(sizes) for moment in self.moments), strict=True)
        steps = [*(self.step.clone() for _ in sizes[1:]), self.step]
        return [
            _Piece(weight, gradient, list(pair), step)
            for weight, gradient, pair, step in zip(
                self.weight.split(sizes), self.gradient.split(sizes), moments, steps, strict=True
            )
        ]


class Bf16StateAdam(torch.optim.Adam):
    """torch's Adam, or AdamW where `decoupled`, with moments kept in bf16 between steps.

    The rounding depends on the step and the index only, so that a run can be repeated exactly. A
    skipped step changes nothing: numbers read from bf16 round to themselves.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        betas: tuple[float, float],
        eps: float,
        *,
        decoupled: bool,
    ) -> None:
        #: Whether the rounding is one compiled kernel.
        self.compiled = False
        super().__init__(
            groups,
            betas=betas,
            eps=eps,
            fused=fused_where_possible(groups),
            decoupled_weight_decay=decoupled,
        )

    def compile(self) -> None:
        """Compile the rounding, which changes no bit.

        Raises RuntimeError where that fails.
        """
        device = self.param_groups[0]["params"][0].device
        start = torch.zeros((), dtype=torch.int32, device=device)
        rounding.rounded_moments(torch.zeros((2, 64), device=device), start)
        self.compiled = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = evaluated(closure)
        batches = [
            (group, pieces) for group in self.param_groups for pieces in _batches(self._held(group))
        ]
        if batches:
            scratch = _Scratch([pieces for _, pieces in batches], rounds=not self.compiled)
            for number, (group, pieces) in enumerate(batches):
                self._update(group, pieces, number, scratch)
        return loss

    def _held(self, group: dict[str, Any]) -> Iterator[_Piece]:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                place = parameter.device if group["fused"] else torch.device("cpu")
                state["step"] = torch.zeros((), dtype=torch.float32, device=place)
                for key in MOMENTS:
                    state[key] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            weight, *moments = (_flat(t) for t in (parameter, *(state[key] for key in MOMENTS)))
            gradient = local_shard(parameter.grad)
            gradient = gradient if gradient.ndim == 1 else gradient.reshape(-1)
            yield _Piece(weight, gradient, moments, state["step"])

    def _update(
        self, group: dict[str, Any], pieces: list[_Piece], number: int, scratch: _Scratch
    ) -> None:
        sizes = [len(piece.weight) for piece in pieces]
        wide = scratch.wide[: 2 * sum(sizes)].view(2, -1)
        start = rounding.offset(pieces[0].step.to(wide.device), number)
        parts = [row.split(sizes) for row in wide.unbind()]
        moments = [piece.moments[place] for place in range(2) for piece in pieces]
        torch._foreach_copy_([*parts[0], *parts[1]], moments)
        adam(
            [piece.weight for piece in pieces],
            [piece.gradient for piece in pieces],
            list(parts[0]),
            list(parts[1]),
            [],
            [piece.step for piece in pieces],
            foreach=False,
            fused=group["fused"],
            found_inf=self.found_inf if hasattr(self, "found_inf") else None,
            decoupled_weight_decay=group["decoupled_weight_decay"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        if self.compiled:
            parts = [row.split(sizes) for row in rounding.rounded_moments(wide, start)]
        else:
            drawn = scratch.drawn[: wide.numel()].view(2, -1)
            rounding.round_moments(wide, scratch.places[: wide.size(1)], start, drawn)
        torch._foreach_copy_(moments, [*parts[0], *parts[1]])


class _Scratch:
    """Buffers that all batches of a step share: both moments in fp32 and, for rounding, bits."""

    def __init__(self, batches: list[list[_Piece]], *, rounds: bool) -> None:
        most = max(sum(len(piece.weight) for piece in pieces) for pieces in batches)
        device = batches[0][0].weight.device
        self.wide = torch.empty(2 * most, dtype=torch.float32, device=device)
        if rounds:
            self.drawn = torch.empty(2 * most, dtype=torch.int32, device=device)
            self.places = rounding.places(most, device)


def _flat(tensor: Tensor) -> Tensor:
    """Return this rank's numbers of a tensor in one dimension, sharing its memory."""
    own = local_shard(tensor)
    return own if own.ndim == 1 else own.view(-1)


def _batches(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Yield batches of slices with AT_ONCE numbers together; the last may have fewer."""
    batch: list[_Piece] = []
    room = AT_ONCE
    for whole in pieces:
        left = len(whole.weight)
        sizes: list[int] = []
        while left:
            sizes.append(min(left, AT_ONCE if sizes else room))
            left -= sizes[-1]
        for piece in whole.cut(sizes) if sizes else []:
            batch.append(piece)
            room -= len(piece.weight)
            if not room:
                yield batch
                batch, room = [], AT_ONCE
    if batch:
        yield batch
