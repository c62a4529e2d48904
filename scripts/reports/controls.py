"""The rows that a pruned row is compared with: dense, magnitude, and a static mask."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.reports.option_values import of_pruning, sparse_from_the_start
from scripts.reports.rows import CLOSE, DENSE, REFERENCE, Row, differences, objections

#: The method whose masks exist from the start and never change.
STATIC = "static"


def dense_control(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the row that is `row` without pruning: equal in all options but those of pruning.

    Options that were tuned for each of the two may differ, too.
    """
    found = [other for other in rows if other.method == DENSE and _of_one_base(row, other)]
    return min(found, key=lambda other: len(objections(row, other)), default=None)


def reference_control(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the magnitude row to compare `row` with: same sparsity, else as above.

    Of several it is the one that differs least.
    """
    return _control(row, rows, REFERENCE)


def static_control(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the static row to compare with a row that is sparse from the start."""
    if row.method == STATIC or not sparse_from_the_start(row.method):
        return None
    return _control(row, rows, STATIC)


def _control(row: Row, rows: Sequence[Row], method: str) -> Row | None:
    """Return the row of `method` that differs least from `row`, of its sparsity and base."""
    found = [
        other
        for other in rows
        if other.method == method
        and abs(other.asked - row.asked) < CLOSE
        and _of_one_base(row, other)
    ]
    return min(
        found,
        key=lambda other: (len(objections(row, other)), len(differences(row, other))),
        default=None,
    )


def _of_one_base(a: Row, b: Row) -> bool:
    """Return whether two rows differ only in pruning and in what was tuned for each."""
    free = a.tuned & b.tuned
    return all(of_pruning(name) or name in free for name in differences(a, b))
