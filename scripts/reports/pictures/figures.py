"""Which pictures the report has, in which order."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.reports.comparisons import Table
from scripts.reports.pictures.costs import against_sparsity, costs
from scripts.reports.pictures.curves import curves
from scripts.reports.pictures.forest import forest
from scripts.reports.pictures.layers import layers
from scripts.reports.pictures.picture import Look, Picture
from scripts.reports.pictures.rates import rates
from scripts.reports.pictures.single import run_pictures
from scripts.reports.pictures.svg import style
from scripts.reports.runs import Run
from scripts.reports.tuning import Tuning


def pictures(
    runs: Sequence[Run], tables: Sequence[Table], shared: bool, tuning: Tuning | None = None
) -> list[Picture]:
    """Return everything that can be drawn of the runs and of the tables' rows."""
    rows = [row for table in tables for row in table.rows]
    look = Look(rows)
    with style():
        if len(runs) == 1:
            sparse = [layers(table) for table in tables]
            return [*run_pictures(runs[0]), *(picture for picture in sparse if picture)]
        drawn: list[Picture | None] = [forest(table) for table in tables]
        drawn += [curves(table, look, shared) for table in tables]
        drawn += [against_sparsity(rows, look), costs(rows, look, shared), rates(tuning)]
        drawn += [layers(table) for table in tables]
    return [picture for picture in drawn if picture is not None]
