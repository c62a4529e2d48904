"""One standard deviation for all rows of a study that scatter alike (report.py --pooled).

Losses of rows with the same conditions are fitted by an effect of the row plus an effect of the
seed (a two-way layout without interaction). The residuals are the scatter of a run; they have more
degrees of freedom than those of two rows alone, so that t is smaller. With two rows both are the
same. Levene's test about the median (Brown and Forsythe 1974), on the residuals by row, checks that
the rows scatter alike; where it rejects, every pair keeps its own deviation.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gpt2.config.text import counted
from scripts.reports.rows import Row
from scripts.reports.statistics import LEVEL, Spread


@dataclass(frozen=True)
class Pool:
    """Rows that share a standard deviation.

    deviation: of one run, without the effects of row and seed, with its degrees of freedom.
    p_equal: of the test of equal variances; None for two rows, which cannot differ in it, and for a
    row with two seeds, whose two residuals are equally far from their median.
    """

    rows: tuple[Row, ...]
    deviation: float
    freedom: int
    p_equal: float | None

    @property
    def rejected(self) -> bool:
        """Return whether the test rejects that the rows scatter alike."""
        return self.p_equal is not None and self.p_equal <= LEVEL

    @property
    def of_differences(self) -> Spread:
        """Return the deviation of a difference between two runs of one seed."""
        return Spread(math.sqrt(2.0) * self.deviation, self.freedom)


def pools_of(rows: Sequence[Row]) -> list[Pool]:
    """Return the pools among `rows`: equal conditions, tokens and steps, at least two rows."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        lengths = (tuple(sorted(set(row.results(name)))) for name in ("tokens", "steps"))
        conditions = tuple(str(value) for value in row.conditions.values())
        groups.setdefault((conditions, *lengths), []).append(row)
    return [pool for group in groups.values() if (pool := _pool(group))]


def spread_for(row: Row, against: Row, pools: Sequence[Pool]) -> Spread | None:
    """Return the pooled deviation for comparing two rows; None to use their own."""
    for pool in pools:
        members = {id(member) for member in pool.rows}
        if id(row) in members and id(against) in members and not pool.rejected:
            return pool.of_differences
    return None


def pool_sentences(pools: Sequence[Pool]) -> Iterator[str]:
    """Yield sentences about the pooled deviations, and whether the rows scatter alike."""
    if not pools:
        yield "No rows have a deviation to pool: it takes two rows of equal conditions and seeds."
    for pool in pools:
        of = f"of {pool.rows[0].label} and {counted(len(pool.rows) - 1, 'other row')}"
        if pool.p_equal is None:
            why = (
                "with two rows it is that of the pair"
                if len(pool.rows) == 2
                else "of two seeds it cannot be tested whether rows scatter alike"
            )
            yield (
                f"The pooled standard deviation {of} is {pool.deviation:.4f} nats "
                f"({counted(pool.freedom, 'degree')} of freedom): {why}."
            )
        elif pool.rejected:
            yield (
                f"The scatter {of} is not pooled: the test of equal variances rejects "
                f"(Brown-Forsythe, p = {pool.p_equal:.2g}), so each pair keeps its own deviation."
            )
        else:
            yield (
                f"The pooled standard deviation {of} is {pool.deviation:.4f} nats "
                f"({pool.freedom} degrees of freedom); the test of equal variances does not reject "
                f"(Brown-Forsythe, p = {pool.p_equal:.2g}), which at so few seeds shows only "
                "large inequality."
            )


def _pool(rows: Sequence[Row]) -> Pool | None:
    """Return the pool of rows, without seeds that only one of them has; None if impossible."""
    counts: dict[int, int] = {}
    for row in rows:
        for seed in row.seeds:
            counts[seed] = counts.get(seed, 0) + 1
    shared = [seed for seed, count in sorted(counts.items()) if count > 1]
    members = [row for row in rows if len(set(row.seeds) & set(shared)) > 1]
    if len(members) < 2:
        return None
    entries = [
        (place, shared.index(run.seed), row.loss_of(run))
        for place, row in enumerate(members)
        for run in row.runs
        if run.seed in shared
    ]
    design = np.zeros((len(entries), len(members) + len(shared)))
    for line, (place, seed, _) in enumerate(entries):
        design[line, place] = design[line, len(members) + seed] = 1.0
    losses = np.array([loss for _, _, loss in entries])
    effects, _, rank, _ = np.linalg.lstsq(design, losses - losses.mean(), rcond=None)
    freedom = len(entries) - int(rank)
    if freedom < 1:
        return None
    left = losses - losses.mean() - design @ effects
    by_row = [left[[e[0] == place for e in entries]] for place in range(len(members))]
    return Pool(
        tuple(members),
        math.sqrt(float(left @ left) / freedom),
        freedom,
        _equal(by_row) if len(members) > 2 else None,
    )


def _equal(by_row: Sequence[np.ndarray]) -> float | None:
    """Return the p value of equal variances; 1 without scatter, None with too few seeds."""
    if min(len(values) for values in by_row) < 3:
        return None
    if max(float(np.ptp(values)) for values in by_row) < 1e-12:
        return 1.0
    with np.errstate(divide="ignore"):  # equal distances within each row: p is 0
        return float(stats.levene(*by_row, center="median").pvalue)
