"""The report's tables as text, column by column: the page, Markdown and the terminal show these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.reports.comparisons import Comparison, Table
from scripts.reports.rows import DENSE, Row
from scripts.reports.statistics import Interval
from scripts.reports.words import p_text, percent, range_text, signed

UNKNOWN = "-"


@dataclass(frozen=True)
class Grid:
    """A table of texts. marks: a word for each line, by which the page styles it."""

    titles: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()


def results_grid(table: Table) -> Grid:
    """Return the results of a table's rows, the dense controls above them."""
    rows = (*table.controls, *table.rows)
    lines = tuple(_result(row) for row in rows)
    titles = (
        "",
        "loss",
        "95 % interval",
        "perplexity",
        "95 % interval",
        "sparsity asked",
        "reached",
        "seeds done",
        "tokens",
        "steps",
        "seconds",
        "tokens/s",
        "peak device MB",
        "peak host MB",
        "optimizer state MB",
        "dense MB",
        "sparse MB",
    )
    return Grid(titles, lines, tuple("control" if r.method == DENSE else "row" for r in rows))


def _result(row: Row) -> tuple[str, ...]:
    loss, perplexity = row.over_seeds("val_loss"), row.over_seeds("val_perplexity")
    reached = row.results("sparsity_reached")
    known = len(row.runs) + row.unfinished
    return (
        row.label,
        _mean(loss, 4),
        _range(loss, 4),
        _mean(perplexity, 3),
        _range(perplexity, 3),
        percent(row.asked) if row.method != DENSE else "dense",
        percent(sum(reached) / len(reached)) if row.method != DENSE else "dense",
        str(len(row.runs)) if not row.unfinished else f"{len(row.runs)} of {known}",
        _span(row.results("tokens")),
        _span(row.results("steps")),
        _mean(row.over_seeds("seconds"), 1),
        _mean(row.over_seeds("tokens_per_second"), 0),
        _mega(row.of("peak_device_bytes")),
        _mega(row.of("peak_host_bytes")),
        _mega(row.of("optimizer_state_bytes")),
        _mega(row.of("dense_bytes")),
        _mega(row.of("sparse_bytes")),
    )


def comparisons_grid(table: Table) -> Grid:
    """Return the comparisons of a table, those that were refused with their reasons."""
    titles = (
        "",
        "against",
        "difference",
        "95 % interval",
        "perplexity",
        "Holm's p",
        "seeds",
        "would have been seen",
        "verdict",
    )
    lines = tuple(_comparison(found) for found in table.comparisons)
    return Grid(titles, lines, tuple(found.outcome for found in table.comparisons))


def _comparison(found: Comparison) -> tuple[str, ...]:
    difference = found.difference
    if difference is None:
        reasons = "; ".join(found.objections)
        blank = (UNKNOWN,) * 6
        return (found.row.label, found.against.label, *blank, f"not compared: {reasons}")
    return (
        found.row.label,
        found.against.label,
        signed(difference.mean),
        range_text(found) or UNKNOWN,
        _change(difference.mean),
        UNKNOWN if found.corrected is None else p_text(found.corrected).removeprefix("p = "),
        str(difference.count),
        UNKNOWN if found.detectable is None else f"{found.detectable:.4f}",
        {
            "better": "better",
            "worse": "worse",
            "equal": "the same to the last digit",
            "undecided": "cannot be told apart",
            "too few": "no claim: fewer than five seeds",
        }[found.outcome],
    )


def _change(difference: float) -> str:
    import math

    return f"{signed(100.0 * math.expm1(difference), 2)} %"


def _mean(found: Interval | None, digits: int) -> str:
    return UNKNOWN if found is None else f"{found.mean:,.{digits}f}"


def _range(found: Interval | None, digits: int) -> str:
    if found is None or found.low is None or found.high is None:
        return UNKNOWN
    return f"{found.low:,.{digits}f} to {found.high:,.{digits}f}"


def _span(values: Sequence[float]) -> str:
    if not values:
        return UNKNOWN
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _mega(size: float | None) -> str:
    return UNKNOWN if size is None else f"{size / 1e6:,.1f}" if size >= 1e5 else f"{size / 1e6:.3f}"
