"""One table of runs that are unlike one another: their losses, and the settings that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from scripts.reports.confounds import own_name
from scripts.reports.option_values import not_compared_of, of_pruning, plain_value, setting
from scripts.reports.rows import DENSE, MODEL_SIZE, Row
from scripts.reports.table_cells import Grid, span_text, without_empty
from scripts.reports.words import percent

#: Options that a row's name and columns show already.
_TOLD = ("OPTIMIZER", "PRUNING_METHOD", "TARGET_SPARSITY", "SEED")
#: Options shown first.
_FIRST = ("DATASET", *MODEL_SIZE, "BLOCK_SIZE")


def overview_grid(rows: Sequence[Row]) -> Grid:
    """Return a line for each row, in the order of all tables."""
    usual = usual_options(rows)
    split = rows[0].split if rows else "validation"
    titles = ("run", "row", f"{split} loss", "perplexity", "sparsity", "tokens", "what differs")
    lines = tuple(
        (
            _runs(row),
            row.label,
            f"{row.loss.mean:.4f}",
            f"{row.perplexity.mean:.3f}",
            "dense" if row.method == DENSE else percent(row.asked),
            span_text(row.results("tokens")),
            _differing(row, usual),
        )
        for row in rows
    )
    return without_empty(Grid(titles, lines), first=3)


def usual_options(rows: Sequence[Row]) -> dict[str, str | None]:
    """Return every option in which rows differ, with the value that most of them have.

    None where no value is that of more than half: then each row shows its own.
    """
    found: dict[str, str | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row.options):
        if name in _TOLD or own_name(name) != name or of_pruning(name):
            continue
        values = [
            row.options[name]
            for row in rows
            if name in row.options and name not in not_compared_of(row.options)
        ]
        if len({plain_value(value) for value in values}) > 1:
            value, count = Counter(values).most_common(1)[0]
            found[name] = value if 2 * count > len(values) else None
    return found


def usual_text(rows: Sequence[Row]) -> str:
    """Return a sentence with the settings of most rows, which the column of differences omits."""
    usual = usual_options(rows)
    named = ", ".join(setting(n, value) for n in _ordered(usual) if (value := usual[n]) is not None)
    return f"Where a row names no other setting: {named}." if named else ""


def _ordered(names: Mapping[str, str | None]) -> list[str]:
    return [name for name in _FIRST if name in names] + [n for n in names if n not in _FIRST]


def _runs(row: Row) -> str:
    """Return a row's first folder, and the number of others."""
    name = row.runs[0].name
    return name if len(row.runs) == 1 else f"{name} and {len(row.runs) - 1} more seeds"


def _differing(row: Row, usual: Mapping[str, str | None]) -> str:
    own = [
        setting(name, row.options[name])
        for name in _ordered(usual)
        if name in row.options and plain_value(row.options[name]) != plain_value(usual[name])
    ]
    return ", ".join(own) or "-"
