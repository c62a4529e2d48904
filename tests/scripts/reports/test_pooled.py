"""The pooled deviation, against the analysis of variance, and how often its tests err."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from scripts.reports.comparisons import tables_of
from scripts.reports.pooled import Pool, pool_sentences, pools_of
from scripts.reports.rows import Row, rows_of
from scripts.reports.statistics import interval, p_value
from tests.scripts.reports.test_statistics import run

OPTIMIZERS = ("adamw", "lion", "muon", "sgd")


def rows(losses: np.ndarray) -> list[Row]:
    """Dense rows, a line of `losses` each, a column for each seed; NaN is a run that is not."""
    return rows_of(
        [
            run(optimizer, "none", seed, float(loss))
            for optimizer, line in zip(OPTIMIZERS, losses, strict=False)
            for seed, loss in enumerate(line, start=1)
            if math.isfinite(loss)
        ]
    )


def pool(losses: np.ndarray) -> Pool:
    (found,) = pools_of(rows(losses))
    return found


def drawn(rng: np.random.Generator, deviations: list[float], seeds: int = 5) -> np.ndarray:
    scatter = rng.normal(0.0, 1.0, (len(deviations), seeds)) * np.array(deviations)[:, None]
    return np.asarray(2.0 + rng.normal(0.0, 0.1, seeds) + scatter)


def test_it_is_the_residual_of_the_two_way_layout() -> None:
    """Balanced: what rows and seeds leave over, with (R - 1)(S - 1) degrees of freedom."""
    losses = drawn(np.random.default_rng(1), [0.01, 0.02, 0.01, 0.03])
    left = losses - losses.mean(1, keepdims=True) - losses.mean(0) + losses.mean()
    found = pool(losses)
    assert found.freedom == 3 * 4
    assert found.deviation == pytest.approx(math.sqrt((left**2).sum() / 12))
    # Brown and Forsythe 1974: the analysis of variance of distances from each row's median.
    distances = [np.abs(line - np.median(line)) for line in left]
    assert found.p_equal == pytest.approx(stats.f_oneway(*distances).pvalue)


def test_with_two_rows_it_is_the_paired_test() -> None:
    losses = drawn(np.random.default_rng(2), [0.01, 0.03])
    found, differences = pool(losses), (losses[0] - losses[1]).tolist()
    assert found.p_equal is None
    assert p_value(differences, found.of_differences) == pytest.approx(p_value(differences))
    shared, own = interval(differences, found.of_differences), interval(differences)
    assert shared.low == pytest.approx(own.low)
    assert shared.freedom == own.freedom == 4


def test_a_seed_that_only_one_row_has_says_nothing() -> None:
    losses = drawn(np.random.default_rng(3), [0.01, 0.01, 0.01], seeds=6)
    more = losses.copy()
    more[1:, 5] = math.nan
    assert pool(more).deviation == pytest.approx(pool(losses[:, :5]).deviation)
    assert pool(more).freedom == pool(losses[:, :5]).freedom


def test_a_missing_run_costs_one_degree_of_freedom() -> None:
    losses = drawn(np.random.default_rng(4), [0.01, 0.01, 0.01])
    losses[1, 2] = math.nan
    assert pool(losses).freedom == 2 * 4 - 1


def test_nothing_is_pooled_of_one_row() -> None:
    assert pools_of(rows(np.array([[1.0, 2.0, 3.0]]))) == []
    assert "No rows have a deviation to pool" in " ".join(pool_sentences([]))


def test_of_two_seeds_it_cannot_be_tested() -> None:
    """Both residuals of a row are equally far from their median, so that none scatters."""
    pools = pools_of(rows(drawn(np.random.default_rng(8), [0.01] * 3, seeds=2)))
    assert pools[0].p_equal is None
    assert not pools[0].rejected
    assert "of two seeds it cannot be tested" in " ".join(pool_sentences(pools))


def test_rows_that_do_not_scatter_are_alike() -> None:
    assert pool(np.full((3, 5), 2.0) + np.arange(5)).p_equal == 1.0


def test_where_rows_scatter_unequally_each_pair_keeps_its_own() -> None:
    losses = drawn(np.random.default_rng(5), [0.001, 0.2, 0.001, 0.001], seeds=12)
    found = rows(losses)
    pools = pools_of(found)
    assert pools[0].rejected
    assert "rejects" in " ".join(pool_sentences(pools))
    assert tables_of(found, pools)[0].comparisons == tables_of(found)[0].comparisons


def test_a_page_uses_it_for_every_pair() -> None:
    losses = drawn(np.random.default_rng(6), [0.01] * 4)
    found = rows(losses)
    pools = pools_of(found)
    assert not pools[0].rejected
    assert "does not reject" in " ".join(pool_sentences(pools))
    compared = tables_of(found, pools)[0].comparisons
    assert len(compared) == 6
    for each in compared:
        assert each.difference is not None
        assert each.difference.freedom == 12
        assert each.difference.deviation == pytest.approx(math.sqrt(2) * pools[0].deviation)
        t = each.difference.mean / (each.difference.deviation / math.sqrt(5))
        assert each.p == pytest.approx(2 * stats.t.sf(abs(t), 12))


def test_both_tests_err_as_often_as_they_say() -> None:
    """200 studies of four rows with nothing between them, by the layout's own formulas."""
    rng = np.random.default_rng(7)
    wrong = rejected = 0
    for _ in range(200):
        losses = drawn(rng, [0.01] * 4)
        found = pool(losses)
        rejected += found.rejected
        differences = (losses[0] - losses[1]).tolist()
        wrong += p_value(differences, found.of_differences) <= 0.05
    assert 2 <= wrong <= 21  # 10 expected, binomial
    assert rejected <= 21  # at most 10: about the median the test is cautious at five seeds
