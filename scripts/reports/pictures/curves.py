"""The picture of loss over the run: the mean of the seeds, and how far they spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from scripts.reports.comparisons import Table
from scripts.reports.pictures.picture import WIDTH, Look, Picture, slug, where_text
from scripts.reports.pictures.svg import SERIES, svg
from scripts.reports.rows import Row


def curves(table: Table, look: Look) -> Picture | None:
    """Draw the validation loss of a table's rows over the run, a panel for each optimizer."""
    panels: list[tuple[str, list[Row]]] = []
    if table.asked == 0.0:
        panels = [("", list(table.rows))]
    else:
        for optimizer in sorted({row.optimizer for row in table.rows}):
            rows = [r for r in (*table.controls, *table.rows) if r.optimizer == optimizer]
            panels.append((optimizer, rows))
    panels = [(title, [r for r in rows if mean_curve(r)]) for title, rows in panels]
    panels = [(title, rows) for title, rows in panels if rows]
    if not panels:
        return None
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.5 * down))
    axes = figure.subplots(down, across, squeeze=False, sharey=True).flat
    tips: dict[str, list[str]] = {}
    limits = _limits([row for _, rows in panels for row in rows])
    for number, (axis, (title, rows)) in enumerate(zip(axes, panels, strict=False)):
        key = f"curve-{number}"
        _curve_panel(axis, rows, look, key, tips, limits, by_row=table.asked == 0.0)
        axis.set_title(title)
    for axis in list(axes)[len(panels) :]:
        axis.set_visible(False)
    where = where_text(table)
    return Picture(
        f"Loss curves {where}",
        "Validation loss over the whole split: the line is the mean of the seeds, the band reaches "
        "from the lowest to the highest. The first fifth of a run may be cut off. While a run is "
        "being pruned its loss is that of a model less sparse than the final one.",
        svg(
            figure,
            f"curves-{slug(table.asked)}",
            f"Validation loss over the run {where}",
            " ".join(
                f"{r.label} ends at {mean_curve(r)[-1][1]:.4f}." for _, p in panels for r in p
            ),
            tips,
        ),
        table.asked,
    )


def mean_curve(row: Row) -> list[tuple[int, float, float, float]]:
    """Return (step, mean, lowest, highest) of the validation loss over the seeds of a row.

    Only of the steps at which every seed was evaluated.
    """
    by_step: dict[int, list[float]] = {}
    for run in row.runs:
        for step, loss, _ in run.evaluations:
            by_step.setdefault(step, []).append(loss)
    return [
        (step, statistics.fmean(values), min(values), max(values))
        for step, values in sorted(by_step.items())
        if len(values) == len(row.runs)
    ]


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the range of loss to show: all of the curves but for the first fifth of the run."""
    curves = [mean_curve(row) for row in rows]
    bottom = min(low for curve in curves for _, _, low, _ in curve)
    top = max(high for curve in curves for step, _, _, high in curve if step >= 0.2 * curve[-1][0])
    margin = 0.06 * (top - bottom) or 0.01
    return bottom - margin, top + margin


def _curve_panel(
    axis: Any,
    rows: Sequence[Row],
    look: Look,
    key: str,
    tips: dict[str, list[str]],
    limits: tuple[float, float],
    by_row: bool,
) -> None:
    for number, row in enumerate(rows):
        points = mean_curve(row)
        colour = SERIES[number % len(SERIES)] if by_row else look.colour(row)
        steps, means, lows, highs = zip(*points, strict=True)
        label = row.label if by_row else row.series
        axis.plot(steps, means, "-" if by_row else look.dash(row), color=colour, label=label)
        axis.fill_between(steps, lows, highs, color=colour, alpha=0.15, linewidth=0)
        seen = [point for point in points if point[1] <= limits[1]]
        seen = seen[:: -(-len(seen) // 24)]
        gid = f"{key}-{number}"
        axis.plot([p[0] for p in seen], [p[1] for p in seen], "o", alpha=0.0, gid=gid)
        tips[gid] = [
            f"{row.label}, step {step:,}: {mean:.4f} ({low:.4f} to {high:.4f})"
            for step, mean, low, high in seen
        ]
    axis.set_ylim(*limits)
    axis.legend(loc="upper right")
    axis.set_xlabel("step")
    axis.set_ylabel("validation loss (nats per token)")
    axis.label_outer(remove_inner_ticks=True)
