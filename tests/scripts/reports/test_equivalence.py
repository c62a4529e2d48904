"""Two one-sided tests, against scipy's and by how often they err."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from scripts.reports.equivalence import equivalences
from scripts.reports.statistics import Spread


def test_the_p_values_are_those_of_two_one_sided_tests() -> None:
    rng = random.Random(1)
    for count in (3, 5, 12):
        differences = [rng.gauss(0.002, 0.004) for _ in range(count)]
        (found,) = equivalences([(differences, None)], 0.005)
        worse = stats.ttest_1samp(differences, 0.005, alternative="less").pvalue
        better = stats.ttest_1samp(differences, -0.005, alternative="greater").pvalue
        assert found.p_worse == pytest.approx(worse)
        assert found.p_better == pytest.approx(better)


def test_a_known_deviation_takes_the_place_of_their_own() -> None:
    differences, spread = [0.001, 0.003, -0.002, 0.0], Spread(0.004, 12)
    (found,) = equivalences([(differences, spread)], 0.005)
    t = (0.0005 - 0.005) / (0.004 / 2)
    assert found.p_worse == pytest.approx(stats.t.cdf(t, 12))


@pytest.mark.parametrize(
    ("mean", "outcome"),
    [(0.0, "equivalent"), (-0.02, "no worse"), (0.02, "no better"), (0.0049, "no better")],
)
def test_what_is_said(mean: float, outcome: str) -> None:
    differences = [mean + step for step in (-0.001, -0.0005, 0.0, 0.0005, 0.001)]
    (found,) = equivalences([(differences, None)], 0.005)
    assert found.outcome == outcome


def test_wide_scatter_shows_nothing() -> None:
    (found,) = equivalences([([-0.1, 0.1, -0.05, 0.05, 0.0], None)], 0.005)
    assert found.outcome == "not shown"


def test_the_correction_is_for_as_many_as_can_be_true() -> None:
    """Of one pair none; of three the smallest of six p values is multiplied by 3, not by 6."""
    tight = [0.001, 0.0, -0.001, 0.0005, 0.0]
    (alone,) = equivalences([(tight, None)], 0.005)
    three = equivalences([(tight, None)] * 3, 0.005)
    assert three[0].p_worse == pytest.approx(3 * alone.p_worse)
    assert equivalences([], 0.005) == []


def test_at_the_margin_one_page_in_twenty_errs() -> None:
    """Truly worse by the margin: "no worse" is wrong for every pair, however many there are."""
    rng = np.random.default_rng(2)
    for pairs in (1, 4):
        wrong = 0
        for _ in range(200):
            draws = rng.normal(0.005, 0.003, (pairs, 5)).tolist()
            found = equivalences([(values, None) for values in draws], 0.005)
            wrong += any(each.outcome in ("equivalent", "no worse") for each in found)
        assert 2 <= wrong <= 21  # 10 expected of independent pairs, binomial
