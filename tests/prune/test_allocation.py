"""Patterns: every count exact, nothing given back, and what each pattern promises."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import torch

from gpt2.prune.allocation import (
    apportion,
    choose,
    count_of,
    erk_densities,
    layer_counts,
    only_grouped,
    row_counts,
)
from gpt2.prune.topk import LAST, keys

SHAPES = {
    "qkv": torch.Size((48, 16)),
    "out": torch.Size((16, 16)),
    "up": torch.Size((64, 16)),
    "down": torch.Size((16, 64)),
}
SIZE = sum(shape.numel() for shape in SHAPES.values())


def largest_remainder(total: int, sizes: list[int]) -> list[int]:
    """Hamilton's method in exact arithmetic, for equal shares."""
    quotas = [Fraction(total * size, sum(sizes)) for size in sizes]
    counts = [int(quota) for quota in quotas]
    order = sorted(range(len(sizes)), key=lambda i: (counts[i] - quotas[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def test_equal_shares_against_exact_arithmetic() -> None:
    rng = random.Random(0)
    for _ in range(200):
        sizes = [rng.randint(1, 500) for _ in range(rng.randint(1, 8))]
        total = rng.randint(0, sum(sizes))
        quotas = [total * size / sum(sizes) for size in sizes]
        expected = largest_remainder(total, sizes)
        found = apportion(total, quotas, [0] * len(sizes), sizes)
        assert sum(found) == total
        # Remainders that are equal but for rounding may fall to either.
        assert all(abs(a - b) <= 1 for a, b in zip(found, expected, strict=True))


def test_bounds_are_kept_and_impossible_ones_refused() -> None:
    assert apportion(10, [5.0, 5.0], [7, 0], [9, 9]) == [7, 3]
    assert apportion(10, [2.0, 8.0], [0, 0], [9, 4]) == [6, 4]
    with pytest.raises(ValueError, match="not between"):
        apportion(3, [1.0, 2.0], [2, 2], [5, 5])


@pytest.mark.parametrize("pattern", ["layer", "row", "erk"])
def test_counts_add_up_exactly_and_never_fall(pattern: str) -> None:
    counts = dict.fromkeys(SHAPES, 0)
    for percent in range(0, 100):
        sparsity = percent / 100.0
        after = layer_counts(pattern, sparsity, SHAPES, counts)
        assert sum(after.values()) == count_of(sparsity, SIZE)
        assert all(after[name] >= counts[name] for name in SHAPES)
        if pattern != "erk":
            for name, shape in SHAPES.items():
                assert abs(after[name] - sparsity * shape.numel()) <= 1.5
        counts = after


def test_erk_is_the_papers_formula() -> None:
    # Evci et al. 2020, 3.1: density in proportion to (in + out) / (in * out).
    found = erk_densities(SHAPES, 0.8)
    ratios = {
        name: found[name] / ((shape[0] + shape[1]) / (shape[0] * shape[1]))
        for name, shape in SHAPES.items()
        if found[name] < 1.0
    }
    assert max(ratios.values()) == pytest.approx(min(ratios.values()))
    kept = sum(found[name] * shape.numel() for name, shape in SHAPES.items())
    assert kept == pytest.approx(0.2 * SIZE)
    # At a low sparsity a small matrix would keep more than it has: it stays dense.
    low = erk_densities(SHAPES, 0.1)
    assert low["out"] == 1.0
    assert all(density <= 1.0 for density in low.values())
    kept = sum(low[name] * shape.numel() for name, shape in SHAPES.items())
    assert kept == pytest.approx(0.9 * SIZE)


def test_rows_get_equal_shares() -> None:
    assert row_counts(10, 4).tolist() == [3, 3, 2, 2]
    torch.manual_seed(0)
    mask = choose(keys(torch.rand(6, 20)), "row", 63)
    assert mask.sum(dim=1).tolist() == [11, 11, 11, 10, 10, 10]


@pytest.mark.parametrize(("pattern", "given", "group"), [("2:4", 2, 4), ("4:8", 4, 8)])
def test_every_group_of_a_grouped_pattern(pattern: str, given: int, group: int) -> None:
    torch.manual_seed(0)
    scores = torch.rand(6, 16)
    mask = choose(keys(scores), pattern, 6 * 16 // 2)
    groups, values = mask.view(-1, group), scores.view(-1, group)
    assert (groups.sum(dim=1) == given).all()
    for chosen, row in zip(groups, values, strict=True):
        assert row[chosen].max() < row[~chosen].min()
    # On the way there no group gives more than it will in the end.
    few = choose(keys(scores), pattern, 20)
    assert int(few.sum()) == 20
    assert not (few & ~mask).any()
    assert (only_grouped(keys(scores), pattern) == LAST).sum() == 6 * 16 // 2
