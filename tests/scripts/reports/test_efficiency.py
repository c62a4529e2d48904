"""The data-efficiency factor, on curves whose factor is known."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.efficiency_table import coverage, table
from scripts.reports.efficiency import factor, fit

TOKENS = {3: [1e6, 2e6, 4e6], 4: [1e6, 2e6, 4e6, 8e6], 5: [2e5, 1e6, 3e6, 7e6, 4e7]}


def losses(a: float, b: float, c: float, tokens: list[float], better: float = 1.0) -> list[float]:
    return [a * (better * each) ** -b + c for each in tokens]


@pytest.mark.parametrize("points", TOKENS)
@pytest.mark.parametrize("curve", [(57.0, 0.3, 1.2), (406.4, 0.34, 1.69), (9.0, 0.1, 0.0)])
def test_the_curve_is_found_again(points: int, curve: tuple[float, float, float]) -> None:
    a, b, c = curve
    found = fit(TOKENS[points], losses(a, b, c, TOKENS[points]))
    assert found is not None
    assert (found.a, found.b, found.c) == pytest.approx((a, b, c), rel=1e-3, abs=1e-3)
    assert found.loss(TOKENS[points][1]) == pytest.approx(a * TOKENS[points][1] ** -b + c)
    assert (found.residual is None) == (points == 3)
    if found.residual is not None:
        assert found.residual < 1e-9


@pytest.mark.parametrize("points", TOKENS)
@pytest.mark.parametrize("truth", [1.1, 1.2, 1.3, 1.5, 1.7, 2.0])
def test_known_factors_are_recovered(points: int, truth: float) -> None:
    """Without noise, at every horizon: within 0.01 %."""
    tokens = TOKENS[points]
    control = [[each] * 2 for each in losses(57.0, 0.3, 1.2, tokens)]
    for horizon in tokens:
        (loss,) = losses(57.0, 0.3, 1.2, [horizon], truth)
        found = factor(tokens, control, [loss] * 2, horizon)
        assert found is not None
        assert found.factor == pytest.approx(truth, rel=1e-4)
        assert found.low == pytest.approx(found.factor)
        assert found.beyond == (truth * horizon > tokens[-1])


def test_the_residual_is_that_of_least_squares() -> None:
    tokens = TOKENS[5]
    rng = np.random.default_rng(1)
    values = np.array(losses(57.0, 0.3, 1.2, tokens)) + rng.normal(0.0, 0.01, 5)
    found = fit(tokens, values.tolist())
    assert found is not None
    left = values - [found.loss(each) for each in tokens]
    assert found.residual == pytest.approx(float(np.sqrt((left**2).sum() / 2)))
    for a, b, c in ((1.01, 1.0, 1.0), (1.0, 1.01, 1.0), (1.0, 1.0, 1.01), (0.99, 0.999, 1.001)):
        other = losses(found.a * a, found.b * b, found.c * c, tokens)
        assert float(((values - other) ** 2).sum()) > float((left**2).sum())


def test_the_interval_is_the_delta_method_s() -> None:
    """Against derivatives by small steps of the whole way from losses to the factor."""
    rng = np.random.default_rng(2)
    tokens = TOKENS[4]
    control = np.array(losses(57.0, 0.3, 1.2, tokens))[:, None] + rng.normal(0.0, 1e-3, (4, 5))
    (end,) = losses(57.0, 0.3, 1.2, [8e6], 1.4)
    contender = end + rng.normal(0.0, 1e-3, 5)
    found = factor(tokens, control.tolist(), contender.tolist(), 8e6)
    assert found is not None

    def log_factor(means: np.ndarray, own: float) -> float:
        curve = fit(tokens, means.tolist())
        assert curve is not None
        reached = curve.tokens_for(own)
        assert reached is not None
        return float(np.log(reached))

    means, own, step = control.mean(1), float(contender.mean()), 1e-6
    slopes = [
        (log_factor(means + step * unit, own) - log_factor(means - step * unit, own)) / (2 * step)
        for unit in np.eye(4)
    ]
    slope = (log_factor(means, own + step) - log_factor(means, own - step)) / (2 * step)
    by_seed = np.array(slopes) @ control + slope * contender
    reach = 2.776 * float(by_seed.std(ddof=1)) / 5**0.5
    assert found.high is not None
    assert np.log(found.high / found.factor) == pytest.approx(reach, rel=5e-3)


def test_a_seed_that_shifts_both_alike_is_no_scatter() -> None:
    tokens = TOKENS[3]
    shift = np.array([-0.1, 0.0, 0.05, 0.02, 0.1])
    control = np.array(losses(57.0, 0.3, 1.2, tokens))[:, None] + shift
    (end,) = losses(57.0, 0.3, 1.2, [4e6], 1.5)
    found = factor(tokens, control.tolist(), (end + shift).tolist(), 4e6)
    assert found is not None
    assert found.low == pytest.approx(found.high, rel=1e-6)


def test_what_no_curve_fits_has_no_factor() -> None:
    tokens = TOKENS[3]
    assert fit(tokens, [1.0, 1.1, 1.2]) is None  # rises
    assert fit(tokens, [3.0, 2.0, 0.5]) is None  # falls faster and faster
    control = [[each] for each in losses(57.0, 0.3, 1.2, tokens)]
    assert factor(tokens, control, [1.1], 4e6) is None  # below all that it reaches


def test_one_seed_has_a_factor_and_no_interval() -> None:
    tokens = TOKENS[3]
    control = [[each] for each in losses(57.0, 0.3, 1.2, tokens)]
    found = factor(tokens, control, [losses(57.0, 0.3, 1.2, [4e6], 1.5)[0]], 4e6)
    assert found is not None
    assert (found.low, found.high, found.seeds) == (None, None, 1)


@pytest.mark.parametrize("tokens", [[1e6, 4e6], [1e6, 2e6, 3e6]])
def test_too_few_horizons_are_refused(tokens: list[float]) -> None:
    with pytest.raises(ValueError, match="horizons from 1e"):
        fit(tokens, [3.0, 2.5, 2.3][: len(tokens)])


@pytest.mark.parametrize("truth", [1.1, 2.0])
def test_the_intervals_hold_the_truth(truth: float) -> None:
    """100 studies of five seeds; the 1000 are in docs/report.md (scripts/efficiency_table.py)."""
    found = coverage(truth, (1, 2, 4), 100, random_seed=3)
    assert 0.88 <= found.covered <= 1.0  # 95 expected of 100, binomial; a bootstrap has 84
    assert abs(found.bias) < 0.02


def test_the_table_has_a_line_for_each_factor() -> None:
    assert len(table(2).splitlines()) == 2 + 2 * 5
