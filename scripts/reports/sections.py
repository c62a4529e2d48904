"""The sections of a report of several rows, in order, for the page and Markdown alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from scripts.reports.content import Report
from scripts.reports.overview import overview_grid, usual_text
from scripts.reports.speed_cells import (
    efficiency_grid,
    efficiency_notes,
    speedup_grid,
    speedup_notes,
)
from scripts.reports.speedup import speedups
from scripts.reports.table_cells import (
    Grid,
    comparisons_grid,
    costs_grid,
    costs_of,
    details,
    results_grid,
    unfinished_grid,
)
from scripts.reports.tuning_cells import rule, tuning_grid, widths_grid
from scripts.reports.words import where


@dataclass(frozen=True)
class Section:
    """The tables of one sparsity, and the notes beside them. A grid is None where it is empty.

    asked: the sparsity. tested: how many of its comparisons were tested.
    """

    heading: str
    asked: float
    results: Grid | None
    details: list[str]
    comparisons: Grid | None
    tested: int
    speedups: Grid | None
    speedup_notes: list[str]
    costs: Grid | None


class Sections:
    """The tables of a report of several rows. A grid is None where there is nothing to show.

    Where hardly any rows compare, one overview replaces the results of each sparsity.
    """

    def __init__(self, report: Report) -> None:
        self._report = report

    @property
    def overview(self) -> Grid | None:
        """Return all rows in one table."""
        return overview_grid(self._report.rows) if self._report.unlike else None

    @property
    def usual(self) -> str:
        """Return the settings that most rows of the overview share."""
        return usual_text(self._report.rows) if self._report.unlike else ""

    @property
    def overview_costs(self) -> Grid | None:
        """Return the time, memory and sizes of all rows."""
        return costs_of(self._report.rows) if self._report.unlike else None

    @cached_property
    def by_sparsity(self) -> list[Section]:
        """Return a section for each sparsity; beside an overview only those with comparisons."""
        report = self._report
        found = []
        for table in report.tables:
            if report.unlike and not table.comparable:
                continue
            pairs = list(speedups(table.comparisons))
            grid = speedup_grid(pairs, report.shared)
            found.append(
                Section(
                    where(table.asked),
                    table.asked,
                    None if report.unlike else results_grid(table),
                    details(table),
                    comparisons_grid(table, report.legend) if table.comparable else None,
                    table.tested,
                    grid if grid.lines else None,
                    list(speedup_notes(pairs)),
                    None if report.unlike else costs_grid(table),
                )
            )
        return found

    @property
    def efficiencies(self) -> Grid | None:
        """Return the data efficiency of rows against their controls."""
        found = self._report.efficiencies
        return efficiency_grid(found) if found else None

    @property
    def efficiency_notes(self) -> list[str]:
        """Return the curves behind the data efficiency."""
        return list(efficiency_notes(self._report.efficiencies))

    @property
    def tuning(self) -> Grid | None:
        """Return every learning rate that was tried."""
        return tuning_grid(self._report.tuning) if self._report.tuning else None

    @property
    def tuning_notes(self) -> list[str]:
        """Return how learning rates were chosen, and remarks on the choice."""
        tuning = self._report.tuning
        return [*rule(tuning), *tuning.remarks] if tuning else []

    @property
    def widths(self) -> Grid | None:
        """Return the widths of the ranges of good learning rates."""
        curves = self._report.rate_curves
        return widths_grid(curves) if curves else None

    @property
    def unfinished(self) -> Grid | None:
        """Return the runs without results."""
        return unfinished_grid(self._report.unfinished) if self._report.unfinished else None
