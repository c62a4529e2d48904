"""One table of runs that are unlike one another: what differs, and what they reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gpt2.config.names import flag_of
from scripts.reports.confounds import own_name
from scripts.reports.option_values import not_compared_of, of_pruning, plain_value
from scripts.reports.rows import DENSE, MODEL_SIZE, Row
from scripts.reports.table_cells import Grid, span_text
from scripts.reports.words import percent

#: What a row's name and columns say already.
_TOLD = ("OPTIMIZER", "PRUNING_METHOD", "TARGET_SPARSITY", "SEED")
#: Options that are told first.
_FIRST = ("DATASET", *MODEL_SIZE, "BLOCK_SIZE")


def overview_grid(rows: Sequence[Row]) -> Grid:
    """Return a line for each row, the lowest loss first."""
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
        for row in sorted(rows, key=lambda row: row.loss.mean)
    )
    return Grid(titles, lines)


def usual_options(rows: Sequence[Row]) -> dict[str, str]:
    """Return the most frequent value of every option in which rows that have it differ."""
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row.options):
        if name in _TOLD or own_name(name) != name or of_pruning(name):
            continue
        values = [
            row.options[name]
            for row in rows
            if name in row.options and name not in not_compared_of(row.options)
        ]
        if len({plain_value(value) for value in values}) > 1:
            found[name] = Counter(values).most_common(1)[0][0]
    return found


def usual_text(rows: Sequence[Row]) -> str:
    """Say what the column of differences is told against."""
    usual = usual_options(rows)
    named = ", ".join(f"{_flag(name)} {usual[name] or repr('')}" for name in _ordered(usual))
    return f"What differs is told against what most rows have: {named}." if named else ""


def _ordered(names: Mapping[str, str]) -> list[str]:
    return [name for name in _FIRST if name in names] + [n for n in names if n not in _FIRST]


def _runs(row: Row) -> str:
    """Return the folders of a row."""
    name = row.runs[0].name
    return name if len(row.runs) == 1 else f"{name} and {len(row.runs) - 1} more seeds"


def _differing(row: Row, usual: Mapping[str, str]) -> str:
    own = [
        f"{_flag(name)} {row.options[name] or repr('')}"
        for name in _ordered(usual)
        if name in row.options and plain_value(row.options[name]) != plain_value(usual[name])
    ]
    return ", ".join(own) or "-"


def _flag(name: str) -> str:
    return flag_of(name).removeprefix("--")
