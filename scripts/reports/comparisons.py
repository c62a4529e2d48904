"""Tables of one sparsity each: which rows are held against which, and what the test says."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripts.reports.rows import (
    DENSE,
    Row,
    dense_control,
    objections,
    paired,
    paired_differences,
    reference_control,
)
from scripts.reports.statistics import (
    FEWEST,
    LEVEL,
    Interval,
    detectable,
    holm,
    interval,
    p_value,
)

#: What a row is held against: its own optimizer without pruning, magnitude at the same sparsity,
#: or any other row of the table.
AGAINST_DENSE, AGAINST_REFERENCE, AGAINST_ROW = "dense", "reference", "row"


@dataclass(frozen=True)
class Comparison:
    """Final losses of `row` minus those of `against`, paired by seed.

    objections: why the two cannot be compared; then nothing else is given. p: the test's p value,
    corrected: by Holm within the table; both None where no claim is made: of fewer than five
    seeds, or where unequal numbers of seeds failed.
    detectable: the difference that so many seeds would have shown with a chance of 80 %.
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

    @property
    def uneven(self) -> bool:
        """Whether more seeds of one side than of the other have no results.

        Whether a seed diverges depends on the method, so the seeds that are left are then no fair
        sample: those that do worst are missing on one side.
        """
        return self.row.unfinished != self.against.unfinished

    @property
    def outcome(self) -> str:
        """One of: refused, uneven, too few, better, worse, equal (to the last digit), undecided."""
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
        return "better" if self.difference.mean < 0.0 else "worse"


@dataclass(frozen=True)
class Table:
    """The rows of one sparsity, their dense controls, and every comparison that was tested."""

    asked: float
    rows: tuple[Row, ...]
    controls: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    lacking: tuple[Row, ...]

    @property
    def tested(self) -> int:
        """The number of claims that Holm's correction is for."""
        return sum(found.corrected is not None for found in self.comparisons)


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """Return a table for every sparsity that was asked for, dense first."""
    found = []
    for asked, members in itertools.groupby(rows, key=lambda row: row.asked):
        own = tuple(members)
        pruned = [row for row in own if row.method != DENSE]
        controls = {id(c): c for row in pruned if (c := dense_control(row, rows))}
        found.append(
            Table(
                asked,
                own,
                tuple(control for key, control in controls.items() if control not in own),
                tuple(_tested(list(_pairs(own, rows)))),
                tuple(row for row in pruned if dense_control(row, rows) is None),
            )
        )
    return found


def _pairs(own: Sequence[Row], rows: Sequence[Row]) -> Iterator[Comparison]:
    """Yield what is asked in a table, before any answer is looked at."""
    unpaired = True
    for row in own:
        if row.method == DENSE:
            continue
        for purpose, control in (
            (AGAINST_DENSE, dense_control(row, rows)),
            (AGAINST_REFERENCE, reference_control(row, own)),
        ):
            if control is not None and control is not row:
                unpaired = False
                yield _compare(row, control, purpose)
    dense = [row for row in own if row.method == DENSE]
    for first, second in itertools.combinations(own if unpaired else dense, 2):
        yield _compare(second, first, AGAINST_ROW)


def _compare(row: Row, against: Row, purpose: str) -> Comparison:
    pairs = paired(row, against)
    reasons = objections(row, against, same_sparsity=purpose == AGAINST_REFERENCE)
    if not pairs:
        reasons.append("no seed in common")
    if reasons:
        return Comparison(row, against, purpose, objections=tuple(reasons))
    seeds = tuple(ours.seed for ours, _ in pairs)
    difference = interval(paired_differences(row, against))
    return Comparison(row, against, purpose, seeds, difference)


def _tested(comparisons: Sequence[Comparison]) -> Iterator[Comparison]:
    """Yield the comparisons of a table with their p values and what could have been seen."""
    testable = [
        c for c in comparisons if c.difference and c.difference.count >= FEWEST and not c.uneven
    ]
    raw = [p_value(paired_differences(c.row, c.against)) for c in testable]
    p_values = {id(c): values for c, *values in zip(testable, raw, holm(raw), strict=True)}
    family = sum(c.difference is not None for c in comparisons)
    for found in comparisons:
        if found.difference is None:
            yield found
            continue
        p, corrected = p_values.get(id(found), (None, None))
        size = detectable(
            found.difference.deviation,
            found.difference.count,
            len(testable) if p is not None else family,
        )
        yield dataclasses.replace(found, p=p, corrected=corrected, detectable=size)
