"""The report's tables as text, column by column, for the page, Markdown and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.reports.comparisons import AGAINST_SMALL, Comparison, Table
from scripts.reports.legend import Legend
from scripts.reports.rows import DENSE, Row
from scripts.reports.runs import Run
from scripts.reports.splits import VALIDATION
from scripts.reports.statistics import Interval
from scripts.reports.words import p_text, percent, range_text, signed

UNKNOWN = "-"


@dataclass(frozen=True)
class Grid:
    """A table of texts. marks: a word for each line, for the page's style."""

    titles: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()


def without_empty(grid: Grid, first: int = 1) -> Grid:
    """Return a table without empty columns, from number `first` on."""
    kept = [
        column
        for column in range(len(grid.titles))
        if column < first or any(line[column] not in (UNKNOWN, "dense") for line in grid.lines)
    ]
    lines = tuple(tuple(line[column] for column in kept) for line in grid.lines)
    return Grid(tuple(grid.titles[column] for column in kept), lines, grid.marks)


def results_grid(table: Table) -> Grid:
    """Return the results of a table's rows, the dense controls above them."""
    rows = (*table.controls, *table.rows)
    titles: tuple[str, ...] = (
        "",
        f"{rows[0].split if rows else VALIDATION} loss",
        "95 % interval",
        "perplexity",
        "95 % interval",
        "sparsity asked",
        "reached",
        "seeds",
        "tokens",
        "steps",
    )
    lines = [_result(row) for row in rows]
    beats = beats_small_dense(table)
    if beats:
        titles = (*titles, "beats the small dense model")
        found = [beats.get(id(row), UNKNOWN) for row in rows]
        lines = [(*line, each) for line, each in zip(lines, found, strict=True)]
    return without_empty(Grid(titles, tuple(lines), _marks(table)), first=5)


def details(table: Table) -> list[str]:
    """Return the settings behind the letters in the names of a table's rows."""
    rows = (*table.controls, *table.rows)
    return [f"{row.label}: {row.detail}" for row in rows if row.detail]


def beats_small_dense(table: Table) -> dict[int, str]:
    """Return for each pruned row whether it beats the dense model of equal size.

    By the row's id; empty where no row has such a control.
    """
    words = {"better": "yes", "worse": "no", "equal": "no", "undecided": "cannot be told apart"}
    found = {
        id(c.row): words.get(c.outcome, "no claim")
        for c in table.comparisons
        if c.purpose == AGAINST_SMALL
    }
    pruned = [row for row in table.rows if row.method != DENSE]
    return {id(row): found.get(id(row), "no such model") for row in pruned} if found else {}


def unfinished_grid(runs: Sequence[Run]) -> Grid:
    """Return the runs without results: the status and last step of each."""
    lines = (
        (run.name, run.status, UNKNOWN if run.last_step is None else str(run.last_step))
        for run in runs
    )
    return Grid(("run", "status", "last step on record"), tuple(lines))


def costs_grid(table: Table) -> Grid:
    """Return the costs of a table's rows, the dense controls above them."""
    return costs_of((*table.controls, *table.rows), _marks(table))


def costs_of(rows: Sequence[Row], marks: tuple[str, ...] = ()) -> Grid:
    """Return the costs of rows: mean time over the seeds, the largest memory, sizes on disk."""
    titles = (
        "",
        "seconds",
        "tokens/s",
        "peak device memory (MB)",
        "peak host memory (MB)",
        "optimizer state (MB)",
        "dense file (MB)",
        "sparse file (MB)",
    )
    return without_empty(Grid(titles, tuple(_cost(row) for row in rows), marks))


def _marks(table: Table) -> tuple[str, ...]:
    """Return the style of each line: controls, and the best row only where rows compare."""
    best = ["best" if row is table.lowest else "row" for row in table.rows]
    return (*("control" for _ in table.controls), *best)


def _result(row: Row) -> tuple[str, ...]:
    reached = row.results("sparsity_reached")
    pruned = row.method != DENSE
    known = len(row.runs) + row.unfinished
    return (
        row.label,
        _mean(row.loss, 4),
        _range(row.loss, 4),
        _mean(row.perplexity, 3),
        _range(row.perplexity, 3),
        percent(row.asked) if pruned else "dense",
        percent(sum(reached) / len(reached)) if pruned else "dense",
        str(len(row.runs)) if not row.unfinished else f"{len(row.runs)} of {known}",
        span_text(row.results("tokens")),
        span_text(row.results("steps")),
    )


def _cost(row: Row) -> tuple[str, ...]:
    return (
        row.label,
        _mean(row.over_seeds("seconds"), 1),
        _mean(row.over_seeds("tokens_per_second"), 0),
        _mega(row.of("peak_device_bytes")),
        _mega(row.of("peak_host_bytes")),
        _mega(row.of("optimizer_state_bytes")),
        _mega(row.of("dense_bytes")),
        _mega(row.of("sparse_bytes")),
    )


def comparisons_grid(table: Table, legend: Legend) -> Grid:
    """Return the differences between rows of a table that can be compared.

    The letters of `legend` are for other differences between two rows.
    """
    titles = (
        "",
        "against",
        "verdict",
        "difference",
        "95 % interval",
        "perplexity",
        "Holm's p",
        "seeds",
        "detectable",
        *(("equivalence",) if _margin(table) else ()),
        "also differ",
    )
    margin = _margin(table)
    lines = tuple(
        _comparison(found, margin, legend.mark(found) or UNKNOWN) for found in table.comparable
    )
    return Grid(titles, lines, tuple(found.outcome for found in table.comparable))


def _margin(table: Table) -> float | None:
    """Return the margin of the equivalence tests; None if nothing is tested by it."""
    tested = (c.equivalence for c in table.comparisons if c.equivalence)
    return next((found.margin for found in tested), None)


def _equivalence(found: Comparison) -> str:
    shown = found.equivalence
    if shown is None:
        return UNKNOWN
    texts = {"equivalent": "within", "no worse": "no worse by", "no better": "no better by"}
    text = f"{texts[shown.outcome]} {shown.margin:g}" if shown.outcome in texts else "not shown"
    return f"{text} ({p_text(shown.p)})"


def _comparison(found: Comparison, margin: float | None, also: str) -> tuple[str, ...]:
    difference = found.difference
    assert difference is not None, "these two are not compared"
    return (
        found.row.label,
        found.against.label,
        {
            "better": "better",
            "worse": "worse",
            "equal": "the same to the last digit",
            "undecided": "cannot be told apart",
            "uneven": "no claim: seeds without results",
            "reversible": "no claim: failed seeds could undo it",
            "too few": f"no claim: {difference.count} seeds"
            if difference.count > 1
            else "no claim: 1 seed",
        }[found.outcome],
        signed(difference.mean),
        range_text(found) or UNKNOWN,
        _change(difference.mean),
        UNKNOWN
        if found.corrected is None
        else p_text(found.corrected).removeprefix("p").strip(" =\u00a0"),
        str(difference.count),
        UNKNOWN if found.detectable is None else f"{found.detectable:.4f}",
        *((_equivalence(found),) if margin else ()),
        also,
    )


def _change(difference: float) -> str:
    return f"{signed(100.0 * math.expm1(difference), 2)} %"


def _mean(found: Interval | None, digits: int) -> str:
    return UNKNOWN if found is None else f"{found.mean:,.{digits}f}"


def _range(found: Interval | None, digits: int) -> str:
    if found is None or found.low is None or found.high is None:
        return UNKNOWN
    return f"{found.low:,.{digits}f} to {found.high:,.{digits}f}"


def span_text(values: Sequence[float]) -> str:
    """Return one number, or the lowest and the highest of several."""
    if not values:
        return UNKNOWN
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _mega(size: float | None) -> str:
    if not size:  # a run on a CPU has no device memory
        return UNKNOWN
    return f"{size / 1e6:,.0f}" if size >= 1e8 else f"{size / 1e6:.3g}"
