"""Picture of loss against learning rate, a panel for each optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from scripts.reports.pictures.picture import WIDTH, Picture
from scripts.reports.pictures.svg import SERIES, svg
from scripts.reports.rate_curves import NEAR, RateCurve

HEADING = "Loss against learning rate"


def rates(curves: Sequence[RateCurve]) -> Picture | None:
    """Draw the mean loss of every rate that was tried; None without curves."""
    panels: dict[str, list[RateCurve]] = {}
    for curve in curves:
        panels.setdefault(curve.optimizer, []).append(curve)
    if not panels:
        return None
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.5 * down))
    axes = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    tips: dict[str, list[str]] = {}
    for number, (axis, (optimizer, found)) in enumerate(zip(axes, panels.items(), strict=False)):
        _panel(axis, found, key=f"rates-{number}", tips=tips)
        axis.set_title(optimizer)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    split = curves[0].split
    return Picture(
        HEADING,
        f"Mean final {split} loss over the seeds of every rate; the ring is the one chosen, the "
        f"thick line the rates within {NEAR:g} nats of the best. Trials that failed on a seed show "
        "the seeds that finished. A wide range forgives a rate that is off; a best rate at the "
        "edge may not be the best of all.",
        svg(
            figure,
            "rates",
            f"Final {split} loss against learning rate",
            " ".join(f"{tip}." for texts in tips.values() for tip in texts),
            tips,
        ),
    )


def _panel(axis: Any, curves: Sequence[RateCurve], key: str, tips: dict[str, list[str]]) -> None:
    for number, curve in enumerate(curves):
        x = [point.rate for point in curve.points]
        y = [point.loss for point in curve.points]
        colour, gid = SERIES[number % len(SERIES)], f"{key}-{number}"
        if curve.joined:  # with several options a line would zigzag
            axis.plot(x, y, "-", color=colour, linewidth=1.0)
        axis.plot(x, y, "o", color=colour, markersize=4.0, label=curve.name, gid=gid)
        tips[gid] = [
            f"{curve.name}, {point.text}: {point.loss:.4f}{', chosen' if point.chosen else ''}"
            for point in curve.points
        ]
        for point in (point for point in curve.points if point.chosen):
            ring = {"markersize": 9.0, "markerfacecolor": "none", "markeredgecolor": colour}
            axis.plot(point.rate, point.loss, "o", **ring)
        low, high = curve.near
        axis.plot([low, high], [curve.best.loss] * 2, color=colour, linewidth=4.0, alpha=0.3)
    axis.set_xscale("log")
    axis.legend(loc="best")
    axis.set_xlabel("learning rate")
    axis.set_ylabel(f"{curves[0].split} loss (nats per token)")
    axis.label_outer(remove_inner_ticks=False)
