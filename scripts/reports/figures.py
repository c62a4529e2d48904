"""Which pictures the report has, in which order."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.reports.comparisons import Table
from scripts.reports.costs import against_sparsity, costs
from scripts.reports.curves import curves
from scripts.reports.forest import forest
from scripts.reports.layers import layers
from scripts.reports.picture import Look, Picture
from scripts.reports.svg import style


def pictures(tables: Sequence[Table], shared: bool) -> list[Picture]:
    """Return everything that can be drawn of the tables' rows."""
    rows = [row for table in tables for row in table.rows]
    look = Look(rows)
    with style():
        drawn: list[Picture | None] = [forest(table) for table in tables]
        drawn += [curves(table, look) for table in tables]
        drawn += [against_sparsity(rows, look), costs(rows, look, shared)]
        drawn += [layers(table) for table in tables]
    return [picture for picture in drawn if picture is not None]
