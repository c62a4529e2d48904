"""Statistics of a few seeds: intervals of means, paired tests, Holm's correction, detectable size.

Formulas and sources are in docs/report.md. Everything is two-sided.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import optimize, stats

#: Probability of an error in a table of claims, and of an interval.
LEVEL = 0.05
#: Fewest seeds for a claim.
FEWEST = 5
#: Probability of detecting a difference that is called detectable.
POWER = 0.8


@dataclass(frozen=True)
class Spread:
    """A standard deviation from more than the numbers at hand, and its degrees of freedom."""

    deviation: float
    freedom: int


@dataclass(frozen=True)
class Interval:
    """A mean of `count` numbers, their standard deviation, and the 95 % interval of the mean.

    For one number, deviation and interval are None. freedom: of the deviation; count - 1 if it is
    from these numbers.
    """

    mean: float
    low: float | None
    high: float | None
    deviation: float | None
    count: int
    freedom: int | None = None


def interval(values: Sequence[float], spread: Spread | None = None) -> Interval:
    """Return the mean and its t interval, mean +- t(0.975, n - 1) s / sqrt(n).

    A `spread` replaces s and its degrees of freedom.
    """
    count, mean = len(values), statistics.fmean(values)
    if count < 2:
        return Interval(mean, None, None, None, count)
    spread = spread or Spread(statistics.stdev(values), count - 1)
    reach = float(stats.t.ppf(1.0 - LEVEL / 2.0, spread.freedom))
    reach *= spread.deviation / math.sqrt(count)
    return Interval(mean, mean - reach, mean + reach, spread.deviation, count, spread.freedom)


def p_value(differences: Sequence[float], spread: Spread | None = None) -> float:
    """Return the p value of the paired t test that the true mean of these differences is 0.

    Raises ValueError for fewer than two. Equal differences leave no doubt.
    """
    below, above = one_sided(differences, 0.0, spread)
    return min(1.0, 2.0 * min(below, above))


def one_sided(
    differences: Sequence[float], bound: float, spread: Spread | None = None
) -> tuple[float, float]:
    """Return the p values of t tests that the true mean is below `bound`, and that it is above.

    A small first one shows that the mean is below. Raises ValueError for fewer than two.
    """
    if len(differences) < 2:
        raise ValueError("one difference has no p value")
    found = interval(differences, spread)
    assert found.deviation is not None
    assert found.freedom is not None
    distance = found.mean - bound
    if found.deviation == 0.0:
        return (0.0 if distance < 0.0 else 1.0), (0.0 if distance > 0.0 else 1.0)
    t = distance / (found.deviation / math.sqrt(found.count))
    return float(stats.t.cdf(t, found.freedom)), float(stats.t.sf(t, found.freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979), in the order given.

    The smallest is multiplied by m, the next by m - 1, and so on; none is below the one before.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def power(
    difference: float, deviation: float, count: int, level: float, freedom: int | None = None
) -> float:
    """Return the probability of detecting a true mean `difference` at `level` with `count` pairs.

    freedom: of the deviation; count - 1 if not given.
    """
    freedom = freedom or count - 1
    limit = float(stats.t.ppf(1.0 - level / 2.0, freedom))
    centre = difference / deviation * math.sqrt(count)
    upper = float(stats.nct.sf(limit, freedom, centre))
    lower = float(stats.nct.cdf(-limit, freedom, centre))
    # Far out in the wrong tail the library returns NaN; almost nothing is there.
    return upper + (lower if math.isfinite(lower) else 0.0)


def detectable(
    deviation: float | None, count: int, comparisons: int, freedom: int | None = None
) -> float | None:
    """Return the smallest true difference that `count` seeds show with a probability of 80 %.

    `deviation` is that of the differences, with `freedom` as in power. The level is the strictest
    of Holm's, 0.05 divided by the `comparisons` of the page. None for one seed, which has no
    deviation.
    """
    if deviation is None or count < 2:
        return None
    if deviation == 0.0:
        return 0.0
    level = LEVEL / comparisons

    def lacking(ratio: float) -> float:
        return power(ratio, 1.0, count, level, freedom) - POWER

    high = 1.0
    while lacking(high) < 0.0:
        high *= 2.0
    return deviation * float(optimize.brentq(lacking, 0.0, high, xtol=1e-6))
