"""The content of a report, computed once; the page, Markdown and the data files only show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from scripts.reports.comparisons import Table, tables_of
from scripts.reports.failures import remarks_on_failures
from scripts.reports.headline import headlines, tally
from scripts.reports.horizons import Efficiency, efficiencies
from scripts.reports.legend import Legend
from scripts.reports.pooled import Pool, pool_sentences, pools_of
from scripts.reports.rate_curves import RateCurve, rate_curves
from scripts.reports.rows import Row, rows_of
from scripts.reports.runs import Run
from scripts.reports.single_run import run_headline
from scripts.reports.splits import quoted_split, split_note
from scripts.reports.study import MatrixOutcome
from scripts.reports.tuning import RATE, Tuning, tune
from scripts.reports.verdict import Paragraph, verdict
from scripts.reports.words import overlapping, remarks


@dataclass(frozen=True)
class Report:
    """The content of a report.

    runs: all that were found. reported: those that are neither tuning runs nor at another rate.
    """

    title: str
    runs: tuple[Run, ...]
    reported: tuple[Run, ...]
    rows: tuple[Row, ...]
    tables: tuple[Table, ...]
    tuning: Tuning | None
    matrix: MatrixOutcome | None
    shared: bool
    pools: tuple[Pool, ...] | None = None
    margin: float | None = None

    @property
    def single(self) -> Run | None:
        """Return the run, if the report is about only one."""
        return self.runs[0] if len(self.runs) == 1 and self.matrix is None else None

    @cached_property
    def headlines(self) -> list[str]:
        """Return the headlines: the result of one run, or the answer at each sparsity."""
        return [run_headline(self.single)] if self.single else headlines(self.tables)

    @property
    def tally(self) -> str:
        """Return the outcome of the tests; empty without tests, or where it is the headline."""
        text = tally(self.tables)
        return "" if self.single or text in self.headlines else text

    @property
    def split(self) -> str:
        """Return the split whose losses are reported."""
        return quoted_split(self.reported)

    @property
    def split_note(self) -> str:
        """Return a sentence about the split of the losses, and why."""
        return "" if self.single else split_note(self.reported)

    @property
    def verdict(self) -> list[Paragraph]:
        """Return which rows are better, by how much, and how sure."""
        return [] if self.single else verdict(self.tables, self.legend)

    @cached_property
    def rate_curves(self) -> list[RateCurve]:
        """Return loss against learning rate, where several rates were tried."""
        return rate_curves(self.tuning, self.rows)

    @property
    def unlike(self) -> bool:
        """Return whether hardly any two runs compare, so that one table of all is best."""
        compared = [c for table in self.tables for c in table.comparisons]
        paired = any(c.difference and c.difference.count > 1 for c in compared)
        apart = any(table.groups for table in self.tables)
        return self.matrix is None and len(self.rows) > 1 and (apart or not paired)

    @cached_property
    def legend(self) -> Legend:
        """Return the letters of other differences between compared rows."""
        return Legend(self.tables)

    @property
    def remarks(self) -> list[str]:
        """Return the remarks that a reader needs before trusting the numbers."""
        if self.single:
            return [f"{problem}." for problem in self.single.problems]
        found = list(remarks_on_failures(self.rows, self.reported))
        found += pool_sentences(self.pools) if self.pools is not None else ()
        found += remarks(self.tables, self.runs, self.shared)
        return [*found, *(f"{text}." for text in (self.matrix.problems if self.matrix else ()))]

    @property
    def tested(self) -> int:
        """Return the number of comparisons in Holm's correction."""
        return sum(table.tested for table in self.tables)

    @cached_property
    def efficiencies(self) -> list[Efficiency]:
        """Return the data efficiency of rows with enough horizons."""
        compared = [found for table in self.tables for found in table.comparisons]
        return list(efficiencies(compared, self.rows))

    @property
    def unfinished(self) -> list[Run]:
        """Return the runs without results."""
        return [run for run in self.runs if not run.finished]


def compose(
    title: str,
    runs: Sequence[Run],
    matrix: MatrixOutcome | None = None,
    tuning_seeds: Sequence[int] | None = None,
    pooled: bool = False,
    margin: float | None = None,
) -> Report:
    """Compute a report of `runs`. `tuning_seeds` are as in tune.

    pooled: rows of equal conditions share a standard deviation. margin: of the equivalence test.
    """
    tuning = tune(runs, tuning_seeds, matrix.tuned if matrix else ())
    reported = tuning.reported if tuning else tuple(runs)
    names = tuning.names if tuning else ()
    rows = rows_of(reported, names, names or ((RATE,) if tuning else ()))
    shared = overlapping(runs) or bool(matrix and matrix.shared)
    pools = tuple(pools_of(rows)) if pooled else None
    tables = tuple(tables_of(rows, pools or (), margin))
    return Report(
        title, tuple(runs), reported, tuple(rows), tables, tuning, matrix, shared, pools, margin
    )
