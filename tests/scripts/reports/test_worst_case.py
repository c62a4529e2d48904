"""The worst case for failed seeds is the worst of all ways to fill them in from what was seen."""

from __future__ import annotations

import itertools

import pytest

from scripts.reports.rows import Row
from scripts.reports.worst_case import worst_differences
from tests.scripts.reports.test_statistics import run


def row(optimizer: str, losses: dict[int, float], lost: tuple[int, ...]) -> Row:
    runs = tuple(run(optimizer, "none", seed, loss) for seed, loss in losses.items())
    return Row({"OPTIMIZER": optimizer}, {}, runs, lost=lost)


@pytest.mark.parametrize("effect", [-0.4, 0.4])
@pytest.mark.parametrize(
    ("lost", "lost_against"), [((2,), (6,)), ((2,), (2,)), ((2, 3), (3, 6)), ((7,), (1,))]
)
def test_no_other_filling_in_is_worse(
    effect: float, lost: tuple[int, ...], lost_against: tuple[int, ...]
) -> None:
    seeds = range(1, 8)
    ours = {s: 2.0 + 0.1 * s + effect + 0.01 * (s % 3) for s in seeds if s not in lost}
    theirs = {s: 2.0 + 0.1 * s for s in seeds if s not in lost_against}
    found = worst_differences(row("adamw", ours, lost), row("lion", theirs, lost_against))
    assert len(found) == 7
    seen = [*ours.values(), *theirs.values()]
    means = []
    for filled in itertools.product((min(seen), max(seen)), repeat=len(lost) + len(lost_against)):
        a = ours | dict(zip(lost, filled, strict=False))
        b = theirs | dict(zip(lost_against, filled[len(lost) :], strict=True))
        means.append(sum(a[s] - b[s] for s in seeds) / 7)
    expected = max(means) if effect < 0.0 else min(means)
    assert sum(found) / 7 == pytest.approx(expected)


def test_without_failures_it_is_what_was_seen() -> None:
    a, b = row("adamw", {1: 2.0, 2: 3.0}, ()), row("lion", {1: 2.5, 2: 2.75}, ())
    assert worst_differences(a, b) == [-0.5, 0.25]
