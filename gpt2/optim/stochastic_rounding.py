"""Stochastic rounding from fp32 to bf16, by random bits that depend on index and step only.

Two implementations use the same bits. One works in place, operation by operation. The other is one
compiled kernel, which reads fp32 and writes bf16 without intermediate tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

#: Odd constants that spread indices, steps and batches over 32 bits, as signed numbers.
_PLACE, _STEP, _BATCH = -1640531535, -2048144789, -1028477387
#: Shifts and factors of a mixing function (C. Wellons, hash-prospector, "lowbias32").
_MIX = ((16, 2146121005), (15, -2073254261), (16, 1))
_LOWER = 0xFFFF

Rounded = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def places(count: int, device: torch.device) -> Tensor:
    """Return an int32 that distinguishes each of `count` indices, (count,)."""
    return torch.arange(count, dtype=torch.int32, device=device).mul_(_PLACE)


def offset(step: Tensor, number: int) -> Tensor:
    """Return an int32 (0-d) that distinguishes steps and batches, on the device of `step` (0-d).

    A random generator would have to be seeded by the step, which only the device knows, since it
    decides which steps are skipped.
    """
    return step.to(torch.int32).mul_(_STEP).add_(number * _BATCH % 2**31)


def random_bits(count: int, step: Tensor, number: int) -> Tensor:
    """Return 32 random bits for each of `count` indices, int32, for a step and a batch."""
    bits = places(count, step.device) + offset(step, number)
    _mix(bits, torch.empty_like(bits))
    return bits


def round_by_chance(wide: Tensor, bits: Tensor) -> None:
    """Round fp32 numbers to bf16 in place, up with a probability equal to the remainder.

    `bits` (int32, of the same shape) are random numbers from 0 to 2^16 - 1. Numbers that bf16 can
    hold do not change.
    """
    wide.view(torch.int32).add_(bits).bitwise_and_(~_LOWER)


def round_moments(wide: Tensor, spread: Tensor, start: Tensor, drawn: Tensor) -> None:
    """Round both moments, fp32 (2, n), to bf16 in place.

    spread: places(n). start: offset(). drawn: (2, n) int32, is overwritten.
    """
    bits, upper = drawn.unbind()
    torch.add(spread, start, out=bits)
    _mix(bits, upper)
    torch.bitwise_right_shift(bits, 16, out=upper)
    round_by_chance(wide, drawn.bitwise_and_(_LOWER))


def _mix(bits: Tensor, spare: Tensor) -> None:
    """Mix `bits` in place; `spare`, of the same shape, is overwritten."""
    for shift, factor in _MIX:
        torch.bitwise_right_shift(bits, shift, out=spare)
        bits.bitwise_xor_(spare.bitwise_and_(2 ** (32 - shift) - 1))  # unsigned shift
        if factor != 1:
            bits.mul_(factor)


def moments_by_formula(wide: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return both moments, fp32 (2, n), in bf16, rounded as by round_moments."""
    bits = places(wide.size(1), wide.device) + start
    for shift, factor in _MIX:
        bits = (bits ^ (bits >> shift & 2 ** (32 - shift) - 1)) * factor
    first, second = (
        ((row.view(torch.int32) + (drawn & _LOWER)) & ~_LOWER).view(torch.float32).bfloat16()
        for row, drawn in zip(wide.unbind(), (bits, bits >> 16), strict=True)
    )
    return first, second


@functools.cache
def _compiled() -> Rounded:
    compiled: Rounded = torch.compile(moments_by_formula, fullgraph=True, dynamic=True)
    return compiled


@torch.library.custom_op("gpt2::rounded_moments", mutates_args=())
def rounded_moments(wide: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Do the same as moments_by_formula in one kernel.

    Raises RuntimeError without a compiler.
    """
    return _compiled()(wide, start)


@rounded_moments.register_fake
def _(wide: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    first, second = (wide.new_empty(wide.size(1), dtype=torch.bfloat16) for _ in range(2))
    return first, second
