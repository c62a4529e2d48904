"""Picture of the sparsity of each matrix of the model."""

from __future__ import annotations

import re
import statistics
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from scripts.reports.comparisons import Table
from scripts.reports.pictures.picture import WIDTH, Picture, slug, where_text
from scripts.reports.pictures.svg import ACCENT, INK, PAPER, RULE, svg
from scripts.reports.rows import Row
from scripts.reports.words import percent

#: Most matrices for which the cells have room for numbers.
_MOST_NUMBERS = 30


def layers(table: Table) -> Picture | None:
    """Draw the sparsity of each matrix, a line for each row of the table."""
    rows = [row for row in table.rows if layer_means(row)]
    if table.asked == 0.0 or not rows:
        return None
    names = sorted({name for row in rows for name in layer_means(row)}, key=_layer_order)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.24 * len(rows)))
    axis, scale = figure.subplots(1, 2, width_ratios=(40, 1))
    tips: dict[str, list[str]] = {}
    for down, row in enumerate(rows):
        found = layer_means(row)
        for along, name in enumerate(names):
            if name not in found:
                continue
            gid = f"cell-{down}-{along}"
            axis.add_patch(
                Rectangle((along, down), 1, 1, facecolor=ACCENT, alpha=found[name], gid=gid)
            )
            tips[gid] = [f"{row.label}, {_short(name)}: {percent(found[name])}"]
            if len(names) <= _MOST_NUMBERS:
                ink = PAPER if found[name] > 0.55 else INK
                text = f"{100.0 * found[name]:.0f}"
                axis.text(along + 0.5, down + 0.53, text, ha="center", va="center", color=ink)
    axis.set_xlim(0, len(names))
    axis.set_ylim(len(rows), 0)
    axis.set_yticks([n + 0.5 for n in range(len(rows))], [row.label for row in rows])
    axis.tick_params(axis="y", labelcolor=INK)
    shown = [_short(name) for name in names]
    axis.set_xticks(
        [n + 0.5 for n in range(len(names))], shown, rotation=90 if len(names) > 8 else 0
    )
    if len(names) > 24:
        first = {_layer_order(name)[0]: n for n, name in reversed(list(enumerate(names)))}.values()
        axis.set_xticks([n + 0.5 for n in first], [shown[n] for n in first])
    axis.grid(visible=False)
    for place in range(1, len(names)):
        axis.axvline(place, color=PAPER, linewidth=0.8)
    for place in range(1, len(rows)):
        axis.axhline(place, color=PAPER, linewidth=2.0)
    for spine in axis.spines.values():
        spine.set_color(RULE)
    _draw_scale(scale)
    where = where_text(table)
    return Picture(
        f"Sparsity by layer {where}",
        "How many % of a matrix are zero, mean over seeds; the scale is at the right. A number in "
        "a name is the block, the rest is the matrix in it.",
        svg(
            figure,
            f"layers-{slug(table.asked)}",
            f"Sparsity of each matrix {where}",
            " ".join(f"{tip}." for texts in tips.values() for tip in texts),
            tips,
        ),
        table.asked,
    )


def _draw_scale(axis: Any) -> None:
    """Draw the colour scale, from 0 % at the bottom to 100 %."""
    steps = 20
    for step in range(steps):
        share = (step + 0.5) / steps
        box = Rectangle((0, step / steps), 1, 1 / steps, facecolor=ACCENT, alpha=share, linewidth=0)
        axis.add_patch(box)
    axis.set_xticks([])
    axis.set_yticks([0.0, 0.5, 1.0], ["0 %", "50 %", "100 %"])
    axis.yaxis.tick_right()
    axis.set_ylim(0, 1)
    axis.grid(visible=False)


def layer_means(row: Row) -> dict[str, float]:
    """Return the sparsity of each prunable matrix by name, mean over the seeds of a row."""
    found: dict[str, list[float]] = {}
    for run in row.runs:
        shares = run.summary.sparsity_layers if run.summary else None
        for name, share in (shares or {}).items():
            if 0 <= share <= 1:
                found.setdefault(name, []).append(float(share))
    return {name: statistics.fmean(values) for name, values in found.items()}


def _layer_order(name: str) -> tuple[int, str]:
    match = re.search(r"\.h\.(\d+)\.", name)
    return (int(match[1]) if match else -1), name


def _short(name: str) -> str:
    return re.sub(r"^transformer\.(h\.)?|\.weight$", "", name)
