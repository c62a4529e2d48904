"""Picture of loss over the run: the mean of the seeds, and their range."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from scripts.reports.comparisons import Table
from scripts.reports.metrics import Axis, Point, axes_of
from scripts.reports.pictures.picture import WIDTH, Look, Picture, over_axes, slug, where_text
from scripts.reports.pictures.svg import SERIES, svg
from scripts.reports.rows import Row
from scripts.reports.runs import Run

#: Line styles of rows with their own colour, for each repetition of the colours.
_DASHES = ("-", "--", ":")


def curves(table: Table, look: Look, shared: bool = False) -> Picture | None:
    """Draw the validation loss of a table's rows over the run, a panel for each optimizer.

    shared: runs shared a machine, so time is not an axis.
    """
    where = where_text(table)
    if table.asked == 0.0:
        panels = [("", list(table.rows))]
    else:
        rows = (*table.controls, *table.rows)
        panels = [
            (optimizer, [row for row in rows if row.optimizer == optimizer])
            for optimizer in sorted({row.optimizer for row in table.rows})
        ]
    look_of = None if table.asked == 0.0 else look
    drawn = _drawn(panels, look_of, shared, f"curves-{slug(table.asked)}", f" {where}")
    return drawn and replace(drawn, asked=table.asked)


def curves_together(rows: Sequence[Row], shared: bool = False) -> Picture | None:
    """Draw the validation loss of any rows in one panel."""
    return _drawn([("", list(rows))], None, shared, "curves-all", "")


def _drawn(
    panels: Sequence[tuple[str, list[Row]]], look: Look | None, shared: bool, name: str, where: str
) -> Picture | None:
    """Draw curves; None without any. Without a `look` every row has its own colour."""
    panels = [(title, [row for row in rows if mean_curve(row)]) for title, rows in panels]
    panels = [(title, rows) for title, rows in panels if rows]
    drawn = [row for _, rows in panels for row in rows]
    if not drawn:
        return None
    points = [point for row in drawn for run in row.runs for point in evaluated(run)]
    axes = [axis for axis in axes_of(points) if axis.key != "time" or not shared]
    limits = _limits(drawn)
    words = " ".join(f"{row.label} ends at {mean_curve(row)[-1].mean:.4f}." for row in drawn)

    def draw(axis: Axis) -> str:
        across = min(len(panels), 3)
        down = -(-len(panels) // across)
        figure = Figure(figsize=(WIDTH, 0.4 + 2.5 * down + (1.0 if len(drawn) > 8 else 0.0)))
        boxes = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
        tips: dict[str, list[str]] = {}
        for number, (box, (title, rows)) in enumerate(zip(boxes, panels, strict=False)):
            _curve_panel(box, rows, look, f"curve-{number}", tips, limits, axis)
            box.set_title(title)
        for box in boxes[len(panels) :]:
            box.set_visible(False)
        title = f"Validation loss over {axis.word}{where}"
        return svg(figure, f"{name}-{axis.key}", title, words, tips)

    return over_axes(
        f"Loss curves{where}",
        "Validation loss over the whole split: the line is the mean of the seeds, the band reaches "
        "from the lowest to the highest. The first fifth of a run may be cut off. During pruning "
        "the model is less sparse than at the end.",
        axes,
        draw,
    )


@dataclass(frozen=True)
class MeanPoint:
    """An evaluation of a row: its step, and the mean and range of validation loss over seeds.

    at: the position by the key of an axis, in its base unit; for time it is a mean.
    """

    step: int
    mean: float
    low: float
    high: float
    at: Mapping[str, float]


def mean_curve(row: Row) -> list[MeanPoint]:
    """Return the mean validation curve over the seeds of a row.

    Only steps at which every seed was evaluated are used.
    """
    by_step: dict[int, list[Point]] = {}
    for run in row.runs:
        for point in evaluated(run):
            by_step.setdefault(point.step, []).append(point)
    found = []
    for step, points in sorted(by_step.items()):
        if len(points) != len(row.runs):
            continue
        losses = [point.val_loss for point in points if point.val_loss is not None]
        at = {"steps": float(step)}
        for key, values in (
            ("tokens", [point.tokens for point in points]),
            ("time", [point.seconds for point in points]),
        ):
            known = [value for value in values if value is not None]
            if len(known) == len(points):
                at[key] = statistics.fmean(known)
        found.append(MeanPoint(step, statistics.fmean(losses), min(losses), max(losses), at))
    return found


def evaluated(run: Run) -> list[Point]:
    """Return the evaluations of a run."""
    return [point for point in run.points if point.val_loss is not None]


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the range of loss to show: all curves without the first fifth of the run."""
    curves = [mean_curve(row) for row in rows]
    bottom = min(point.low for curve in curves for point in curve)
    top = max(p.high for curve in curves for p in curve if p.step >= 0.2 * curve[-1].step)
    margin = 0.06 * (top - bottom) or 0.01
    return bottom - margin, top + margin


def _curve_panel(
    box: Any,
    rows: Sequence[Row],
    look: Look | None,
    key: str,
    tips: dict[str, list[str]],
    limits: tuple[float, float],
    axis: Axis,
) -> None:
    """Draw the curves of one panel; without a `look` every row has its own colour."""
    for number, row in enumerate(rows):
        points = mean_curve(row)
        colour = SERIES[number % len(SERIES)] if look is None else look.colour(row)
        x = [point.at[axis.key] / axis.scale for point in points]
        label = row.label if look is None else row.series
        style = _DASHES[number // len(SERIES) % 3] if look is None else look.dash(row)
        box.plot(x, [point.mean for point in points], style, color=colour, label=label)
        ends = [point.low for point in points], [point.high for point in points]
        box.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)
        seen = [(at, p) for at, p in zip(x, points, strict=True) if p.mean <= limits[1]]
        seen = seen[:: -(-len(seen) // 24)]
        gid = f"{key}-{number}"
        box.plot(
            [at for at, _ in seen],
            [point.mean for _, point in seen],
            "o",
            color=colour,
            markersize=2.6,
            gid=gid,
        )
        tips[gid] = [
            f"{row.label}, step {p.step:,}: {p.mean:.4f} ({p.low:.4f} to {p.high:.4f})"
            for _, p in seen
        ]
    box.set_ylim(*limits)
    box.legend(loc="upper right", ncols=1 if len(rows) <= 8 else 3)
    box.set_xlabel(axis.label)
    box.set_ylabel("validation loss (nats per token)")
    box.label_outer(remove_inner_ticks=True)
