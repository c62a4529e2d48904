"""Tables, one per sparsity: which rows are compared with which, and the test's result."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scripts.reports.controls import dense_control, reference_control, static_control
from scripts.reports.equivalence import Equivalence, equivalences
from scripts.reports.groups import MOST_GROUPS, groups_of, reasons_between
from scripts.reports.option_values import LENGTH
from scripts.reports.pooled import Pool, spread_for
from scripts.reports.rows import (
    DENSE,
    Row,
    differences,
    objections,
    paired,
    paired_differences,
)
from scripts.reports.small_dense import small_control
from scripts.reports.statistics import (
    FEWEST,
    LEVEL,
    Interval,
    Spread,
    detectable,
    holm,
    interval,
    p_value,
)
from scripts.reports.worst_case import worst_differences

#: What a row is compared with: its own optimizer without pruning, magnitude at the same sparsity, a
#: static mask at the same sparsity, a small dense model of equal average parameters, or any other
#: row of the table.
AGAINST_DENSE, AGAINST_REFERENCE, AGAINST_ROW = "dense", "reference", "row"
AGAINST_STATIC, AGAINST_SMALL = "static", "small"


@dataclass(frozen=True)
class Comparison:
    """Final losses of `row` minus those of `against`, paired by seed.

    objections: why the two cannot be compared; the other fields are then empty.
    p, corrected: the test's p value, and after Holm's correction over the page; None where no claim
        is made: fewer than five seeds, or unequal numbers of failed seeds.
    detectable: the difference that its seeds would show with a probability of 80 %.
    worst, p_worst: the difference had all failed seeds ended in the worst case, and its p value by
        Holm over the page; None where none failed.
    equivalence: None without a margin, or where these seeds support no claim.
    """

    row: Row
    against: Row
    purpose: str
    seeds: tuple[int, ...] = ()
    difference: Interval | None = None
    p: float | None = None
    corrected: float | None = None
    detectable: float | None = None
    objections: tuple[str, ...] = ()
    worst: Interval | None = None
    p_worst: float | None = None
    equivalence: Equivalence | None = None

    @property
    def uneven(self) -> bool:
        """Return whether one side has more seeds without results than the other.

        Whether a seed diverges depends on the method, so the remaining seeds are then not a fair
        sample: the worst ones are missing on one side.
        """
        return self.row.unfinished != self.against.unfinished

    @property
    def outcome(self) -> str:
        """Return the verdict on the pair.

        One of: refused, uneven, too few, better, worse, equal (to the last digit), undecided, or
        reversible: a claim that seeds which failed on both sides could undo.
        """
        if self.difference is None:
            return "refused"
        if self.uneven:
            return "uneven"
        if self.corrected is None:
            return "too few"
        if self.difference.mean == 0.0 and self.difference.deviation == 0.0:
            return "equal"
        if self.corrected > LEVEL:
            return "undecided"
        if self.p_worst is not None and self.p_worst > LEVEL:
            return "reversible"
        return "better" if self.difference.mean < 0.0 else "worse"


@dataclass(frozen=True)
class Table:
    """The rows of one sparsity, their dense controls of either size, and every comparison.

    groups: the number of groups of rows that are not compared with one another, for the `reasons`;
    0 where every pair was compared. lone: pairs with only one common seed were left out.
    """

    asked: float
    rows: tuple[Row, ...]
    controls: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    lacking: tuple[Row, ...]
    groups: int = 0
    reasons: tuple[str, ...] = ()
    lone: bool = False

    @property
    def comparable(self) -> tuple[Comparison, ...]:
        """Return the comparisons of rows that can be compared."""
        return tuple(found for found in self.comparisons if found.difference)

    @cached_property
    def common_seeds(self) -> frozenset[int]:
        """Return the seeds that all rows have."""
        return frozenset.intersection(*(frozenset(row.seeds) for row in self.rows))

    @cached_property
    def lowest(self) -> Row | None:
        """Return the row with the lowest mean loss over the seeds that all rows have.

        None for a single row, and where any row cannot be compared with it.
        """
        if len(self.rows) < 2 or self.groups or self.lone or not self.common_seeds:
            return None
        found = min(self.rows, key=lambda row: row.loss_over(self.common_seeds).mean)
        return None if any(objections(found, other) for other in self.rows) else found

    @property
    def tested(self) -> int:
        """Return how many of its comparisons were tested."""
        return sum(found.corrected is not None for found in self.comparisons)


def tables_of(
    rows: Sequence[Row], pools: Sequence[Pool] = (), margin: float | None = None
) -> list[Table]:
    """Return a table for every requested sparsity, dense first.

    pools: rows with a common standard deviation. margin: of the equivalence test.
    """
    groups = [tuple(own) for _, own in itertools.groupby(rows, key=lambda row: row.asked)]
    asked = [_asked(own, rows) for own in groups]
    every = [found for each in asked for found in each.pairs]
    tested = iter(tested_together(every, pools, margin))
    found = []
    for own, each in zip(groups, asked, strict=True):
        pruned = [row for row in own if row.method != DENSE]
        controls = {
            id(control)
            for find in (dense_control, small_control)
            for row in pruned
            if (control := find(row, rows))
        }
        found.append(
            Table(
                own[0].asked,
                own,
                tuple(row for row in rows if id(row) in controls and row not in own),
                tuple(itertools.islice(tested, len(each.pairs))),
                tuple(row for row in pruned if dense_control(row, rows) is None),
                each.groups,
                each.reasons,
                each.lone,
            )
        )
    return found


@dataclass(frozen=True)
class _Asked:
    """The pairs of a table that are compared, and those left out; see Table."""

    pairs: list[Comparison]
    groups: int = 0
    reasons: tuple[str, ...] = ()
    lone: bool = False


def _asked(own: Sequence[Row], rows: Sequence[Row]) -> _Asked:
    """Return the pairs of a table that are compared, before any result is looked at."""
    asked = list(_with_controls(own, rows))
    free = [row for row in own if row.method == DENSE] if asked else own
    groups = groups_of(free)
    every = [list(free)] if len(groups) <= MOST_GROUPS else groups
    pairs = [pair for group in every for pair in itertools.combinations(group, 2)]
    # In a study of several lengths, compare rows of the same length.
    pairs = [p for p in pairs if not differences(*p).keys() & set(LENGTH)] or pairs
    shown = pairs
    if len(free) > MOST_GROUPS:  # a pair of single runs shows nothing
        shown = [pair for pair in pairs if len(paired(*pair)) > 1 or objections(*pair)]
    asked += [_compare(second, first, AGAINST_ROW) for first, second in shown]
    lone = len(shown) < len(pairs)
    if len(groups) <= MOST_GROUPS:
        return _Asked(asked, lone=lone)
    return _Asked(asked, len(groups), reasons_between(groups), lone or not asked)


def _with_controls(own: Sequence[Row], rows: Sequence[Row]) -> Iterator[Comparison]:
    for row in own:
        if row.method == DENSE:
            continue
        for purpose, control in (
            (AGAINST_DENSE, dense_control(row, rows)),
            (AGAINST_REFERENCE, reference_control(row, own)),
            (AGAINST_STATIC, static_control(row, own)),
            (AGAINST_SMALL, small_control(row, rows)),
        ):
            if control is not None and control is not row:
                yield _compare(row, control, purpose)


def _compare(row: Row, against: Row, purpose: str) -> Comparison:
    pairs = paired(row, against)
    reasons = objections(row, against, same_sparsity=purpose in (AGAINST_REFERENCE, AGAINST_STATIC))
    if not pairs:
        reasons.append("no seed in common")
    if reasons:
        return Comparison(row, against, purpose, objections=tuple(reasons))
    seeds = tuple(ours.seed for ours, _ in pairs)
    difference = interval(paired_differences(row, against))
    return Comparison(row, against, purpose, seeds, difference)


def tested_together(
    comparisons: Sequence[Comparison], pools: Sequence[Pool], margin: float | None
) -> list[Comparison]:
    """Return the comparisons of a page with their p values and detectable differences.

    All are one family: Holm's correction is over the page.
    """
    spreads = {id(c): spread_for(c.row, c.against, pools) for c in comparisons if c.difference}
    testable = [
        c for c in comparisons if c.difference and c.difference.count >= FEWEST and not c.uneven
    ]
    differences = [paired_differences(c.row, c.against) for c in testable]
    worst = [worst_differences(c.row, c.against) for c in testable]
    own = [spreads[id(c)] for c in testable]
    raw = [p_value(values, spread) for values, spread in zip(differences, own, strict=True)]
    # Failed seeds must not help: this p value is at least that of the finished seeds.
    raw_worst = [
        max(p, _p_of_sign(values, spread, c))
        for p, values, spread, c in zip(raw, worst, own, testable, strict=True)
    ]
    tests = zip(testable, raw, holm(raw), holm(raw_worst), worst, strict=True)
    found_of = {id(c): values for c, *values in tests}
    equal: dict[int, Equivalence] = {}
    if margin is not None:
        whole = [n for n, c in enumerate(testable) if not c.row.lost]  # nor the other: not uneven
        shown = equivalences([(differences[n], own[n]) for n in whole], margin)
        equal = {id(testable[n]): each for n, each in zip(whole, shown, strict=True)}
    family = sum(c.difference is not None for c in comparisons)
    return [
        _with_tests(c, spreads, found_of.get(id(c)), len(testable), family, equal.get(id(c)))
        if c.difference
        else c
        for c in comparisons
    ]


def _with_tests(
    found: Comparison,
    spreads: Mapping[int, Spread | None],
    values: Sequence[Any] | None,
    tested: int,
    family: int,
    equal: Equivalence | None,
) -> Comparison:
    """Return a comparison with its results in the tests of the page."""
    spread = spreads[id(found)]
    difference = interval(paired_differences(found.row, found.against), spread)
    size = detectable(
        difference.deviation,
        difference.count,
        tested if values else family,
        difference.freedom,
    )
    found = dataclasses.replace(found, difference=difference, detectable=size, equivalence=equal)
    if values is None:
        return found
    p, corrected, p_worst, worst = values
    found = dataclasses.replace(found, p=p, corrected=corrected)
    if not found.row.lost:
        return found
    return dataclasses.replace(found, worst=interval(worst, spread), p_worst=p_worst)


def _p_of_sign(values: Sequence[float], spread: Spread | None, found: Comparison) -> float:
    """Return the p value of differences; 1 where their mean has another sign than observed."""
    assert found.difference is not None
    same = sum(values) * found.difference.mean > 0.0
    return p_value(values, spread) if same else 1.0
