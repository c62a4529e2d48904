"""The pictures of a report, and their order."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.reports.comparisons import Table
from scripts.reports.pictures.costs import against_sparsity, costs
from scripts.reports.pictures.curves import curves, curves_together
from scripts.reports.pictures.forest import forest
from scripts.reports.pictures.layers import layers
from scripts.reports.pictures.picture import Look, Picture
from scripts.reports.pictures.rates import rates
from scripts.reports.pictures.single import run_pictures
from scripts.reports.pictures.svg import style
from scripts.reports.rate_curves import RateCurve
from scripts.reports.runs import Run


def pictures(
    runs: Sequence[Run],
    tables: Sequence[Table],
    shared: bool,
    curves_of_rates: Sequence[RateCurve] = (),
    unlike: bool = False,
) -> list[Picture]:
    """Return every possible picture of the runs and of the tables' rows.

    unlike: hardly any two rows compare. They share one picture of curves, and have none that ranks
    them.
    """
    rows = [row for table in tables for row in table.rows]
    look = Look(rows)
    with style():
        sparse = [layers(table) for table in tables]
        if len(runs) == 1:
            return [*run_pictures(runs[0]), *(picture for picture in sparse if picture)]
        drawn: list[Picture | None] = [forest(table) for table in tables]
        if unlike:
            drawn.append(curves_together(rows, shared))
        else:
            drawn += [curves(table, look, shared) for table in tables]
            drawn.append(against_sparsity(rows, look))
            drawn.append(costs(rows, look, shared))
        drawn += [rates(curves_of_rates), *sparse]
    return [picture for picture in drawn if picture is not None]
