"""Rounding by chance: its random bits, its mean, and two forms of it that agree to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2.optim import stochastic_rounding as rounding
from gpt2.optim.stochastic_rounding import random_bits, round_by_chance


@pytest.mark.parametrize("value", [1.003, -1.003, 3.0e-9, -7.7e20])
def test_rounding_is_right_in_the_mean(value: float) -> None:
    count = 2**16
    wide = torch.full((count,), value)
    round_by_chance(wide, random_bits(count, torch.tensor(5.0), 0) & 0xFFFF)
    assert torch.equal(wide.bfloat16().float(), wide)
    found = wide.unique().double()
    assert len(found) == 2
    assert found[0] < value < found[1]
    assert float(found[1] - found[0]) <= abs(value) / 127
    mean = float(wide.double().mean())
    assert abs(mean - value) < 0.01 * float(found[1] - found[0])


def test_what_is_of_bf16_is_not_rounded() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -1.5, 2.0**-133, torch.inf, -torch.inf, torch.nan])
    wide = values.repeat(100)
    round_by_chance(wide, torch.full((800,), 0xFFFF, dtype=torch.int32))
    torch.testing.assert_close(wide, values.repeat(100), equal_nan=True, atol=0.0, rtol=0.0)
    assert torch.equal(wide.signbit(), values.repeat(100).signbit())


def test_random_bits_are_the_mixing_functions() -> None:
    """Against whole numbers of Python; and they depend on place, step and batch."""

    def expected(place: int, step: int, number: int) -> int:
        x = place * 0x9E3779B1 + step * 0x85EBCA6B + number * 0xC2B2AE35 % 2**31
        x %= 2**32
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        x ^= x >> 16
        return x - 2**32 if x >= 2**31 else x

    for step, number in ((0, 0), (1, 0), (70_000, 13)):
        found = random_bits(500, torch.tensor(float(step)), number).tolist()
        assert found == [expected(place, step, number) for place in range(500)]
    drawn = [random_bits(2**16, torch.tensor(float(s)), n) for s, n in ((1, 0), (2, 0), (1, 1))]
    halves = [(bits >> shift) & 0xFFFF for bits in drawn for shift in (0, 16)]
    together = torch.corrcoef(torch.stack(halves).double()).fill_diagonal_(0.0)
    assert float(together.abs().max()) < 0.02
    assert all(abs(float(half.double().mean()) - 32767.5) < 300.0 for half in halves)


#: Counts of numbers: fewer than a vector of the CPU, and not a multiple of one.
COUNTS = (1, 5, 4097)


def moments(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    wide = torch.randn((2, count), generator=generator) * 10.0 ** torch.arange(-9, -7)[:, None]
    wide[:, ::3] = wide[:, ::3].bfloat16().float()  # some have nothing to round
    return wide


def in_place(wide: Tensor, start: Tensor) -> Tensor:
    """What round_moments makes of a copy of `wide`."""
    found, count = wide.clone(), wide.size(1)
    drawn = torch.full((2, count), 7, dtype=torch.int32)
    rounding.round_moments(found, rounding.places(count, wide.device), start, drawn)
    return found


@pytest.mark.parametrize("count", COUNTS)
def test_the_first_moment_takes_the_lower_bits_and_the_second_the_upper(count: int) -> None:
    step, number = torch.tensor(41.0), 3
    wide = moments(count)
    bits = random_bits(count, step, number).numpy().view(np.uint32).astype(np.int64)
    raw = wide.numpy().view(np.uint32).astype(np.int64)
    summed = raw + np.stack([bits & 0xFFFF, bits >> 16])
    expected = (summed >> 16 << 16).astype(np.uint32).view(np.float32)
    found = in_place(wide, rounding.offset(step, number))
    assert np.array_equal(found.numpy().view(np.uint32), expected.view(np.uint32))
    assert torch.equal(found[:, ::3], wide[:, ::3])
    assert count < 9 or not torch.equal(found, wide)


@pytest.mark.parametrize("count", COUNTS)
def test_the_form_that_is_compiled_is_the_other_to_the_bit(count: int) -> None:
    wide, start = moments(count), rounding.offset(torch.tensor(70_000.0), 29)
    found = torch.stack(rounding.moments_by_formula(wide, start))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.float(), in_place(wide, start))


@pytest.mark.slow
def test_compiled_it_is_the_same_to_the_bit() -> None:
    for count in COUNTS[1:]:
        wide, start = moments(count), rounding.offset(torch.tensor(70_000.0), 29)
        found = torch.stack(rounding.rounded_moments(wide, start))
        assert torch.equal(found.float(), in_place(wide, start)), count
