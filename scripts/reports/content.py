"""All that a report says, computed once; the page, Markdown and the data files only show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.reports.comparisons import Table, tables_of
from scripts.reports.failures import remarks_on_failures
from scripts.reports.rows import Row, rows_of
from scripts.reports.runs import Run
from scripts.reports.study import MatrixOutcome
from scripts.reports.tuning import Tuning, tune
from scripts.reports.verdict import Paragraph, headline, verdict
from scripts.reports.words import overlapping, remarks


@dataclass(frozen=True)
class Report:
    """The content of a report.

    runs: all that were found. reported: those that are neither tuning nor at another rate.
    """

    title: str
    runs: tuple[Run, ...]
    reported: tuple[Run, ...]
    rows: tuple[Row, ...]
    tables: tuple[Table, ...]
    tuning: Tuning | None
    matrix: MatrixOutcome | None
    shared: bool

    @property
    def headline(self) -> str:
        """The one sentence above all others."""
        return headline(self.tables)

    @property
    def verdict(self) -> list[Paragraph]:
        """What is better, by how much, and how sure."""
        return verdict(self.tables)

    @property
    def remarks(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        found = list(remarks_on_failures(self.rows, self.reported))
        found += remarks(self.tables, self.runs, self.shared)
        return [*found, *(f"{text}." for text in (self.matrix.problems if self.matrix else ()))]

    @property
    def unfinished(self) -> list[Run]:
        """The runs that have no results."""
        return [run for run in self.runs if not run.finished]


def compose(
    title: str,
    runs: Sequence[Run],
    matrix: MatrixOutcome | None = None,
    tuning_seeds: Sequence[int] | None = None,
) -> Report:
    """Compute a report of `runs`. `tuning_seeds` are as in tune."""
    tuning = tune(runs, tuning_seeds)
    reported = tuning.reported if tuning else tuple(runs)
    rows = rows_of(reported)
    shared = overlapping(runs) or bool(matrix and matrix.shared)
    return Report(
        title, tuple(runs), reported, tuple(rows), tuple(tables_of(rows)), tuning, matrix, shared
    )
