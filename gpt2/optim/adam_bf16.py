"""Adam and AdamW that keep both moments in bf16 and compute in fp32: half the state.

bf16 has steps of 1/128 to 1/256. Rounded to the nearest, a second moment of which a step changes
less would never move again: with beta2 0.999, none that is up to three times too large would fall.
Rounded up or down by chance, as near as it is, it is right in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from gpt2.machine.shards import local_shard
from gpt2.optim.groups import fused_where_possible

MOMENTS = ("exp_avg", "exp_avg_sq")
#: Most numbers whose moments are in fp32 at once.
AT_ONCE = 2**22
#: Odd constants that spread places, steps and batches over 32 bits, as signed numbers.
_PLACE, _STEP, _BATCH = -1640531535, -2048144789, -1028477387
#: Shifts and factors of a mixing function (C. Wellons, hash-prospector, "lowbias32").
_MIX = ((16, 2146121005), (15, -2073254261), (16, 1))


@dataclass
class _Piece:
    """A stretch of one parameter, flat: its weights, gradients, moments and count of steps."""

    weight: Tensor
    gradient: Tensor
    moments: list[Tensor]
    step: Tensor


class Bf16StateAdam(torch.optim.Adam):
    """torch's Adam, or AdamW where `decoupled`, with moments that lie in bf16 between steps.

    Which way a number is rounded follows from the step and its place, so the same run takes the
    same way again. A skipped step changes nothing, since what came from bf16 is not rounded.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        betas: tuple[float, float],
        eps: float,
        *,
        decoupled: bool,
    ) -> None:
        super().__init__(
            groups,
            betas=betas,
            eps=eps,
            fused=fused_where_possible(groups),
            decoupled_weight_decay=decoupled,
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        number = 0
        for group in self.param_groups:
            for pieces in _batches(self._held(group)):
                self._update(group, pieces, number)
                number += 1
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
            moments = [local_shard(state[key]).view(-1) for key in MOMENTS]
            gradient = local_shard(parameter.grad).reshape(-1)
            yield _Piece(local_shard(parameter).view(-1), gradient, moments, state["step"])

    def _update(self, group: dict[str, Any], pieces: list[_Piece], number: int) -> None:
        sizes = [len(piece.weight) for piece in pieces]
        count, device = sum(sizes), pieces[0].weight.device
        bits = random_bits(count, pieces[0].step.to(device), number)
        wide = [torch.empty(count, dtype=torch.float32, device=device) for _ in MOMENTS]
        parts = [list(whole.split(sizes)) for whole in wide]
        for place, views in enumerate(parts):
            torch._foreach_copy_(views, [piece.moments[place] for piece in pieces])
        adam(
            [piece.weight for piece in pieces],
            [piece.gradient for piece in pieces],
            parts[0],
            parts[1],
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
        round_by_chance(wide[0], bits)
        round_by_chance(wide[1], bits.bitwise_right_shift_(16))
        for place, views in enumerate(parts):
            torch._foreach_copy_([piece.moments[place] for piece in pieces], views)


def _batches(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Yield stretches of parameters, AT_ONCE numbers together; the last may be fewer."""
    batch: list[_Piece] = []
    room = AT_ONCE
    for whole in pieces:
        start, size = 0, len(whole.weight)
        while start < size:
            end = min(size, start + room)
            batch.append(_stretch(whole, start, end))
            start, room = end, room - (end - start)
            if not room:
                yield batch
                batch, room = [], AT_ONCE
    if batch:
        yield batch


def _stretch(whole: _Piece, start: int, end: int) -> _Piece:
    """Return a part of `whole`; its last one counts the step, the others a copy of the count."""
    return _Piece(
        whole.weight[start:end],
        whole.gradient[start:end],
        [moment[start:end] for moment in whole.moments],
        whole.step if end == len(whole.weight) else whole.step.clone(),
    )


def random_bits(count: int, step: Tensor, number: int) -> Tensor:
    """Return 32 random bits for each of `count` places, int32 on the device of `step` (0-d).

    They follow from place, step and `number` alone. No generator is asked: it would have to be
    seeded by the step, which only the device knows, since that is where steps are refused.
    """
    bits = torch.arange(count, dtype=torch.int32, device=step.device)
    bits.mul_(_PLACE).add_(step.to(torch.int32) * _STEP + number * _BATCH % 2**31)
    for shift, factor in _MIX:
        upper = (bits >> shift).bitwise_and_(2 ** (32 - shift) - 1)  # without the sign's copies
        bits.bitwise_xor_(upper).mul_(factor)
    return bits


def round_by_chance(wide: Tensor, bits: Tensor) -> None:
    """Round fp32 numbers in place to ones of bf16: up as often as they are near to that.

    The lower 16 of the random `bits` (int32) decide. What is one of bf16 stays.
    """
    wide.view(torch.int32).add_(bits & 0xFFFF).bitwise_and_(-0x10000)
