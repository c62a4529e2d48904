"""The picture of tuning: loss against learning rate, a panel for each optimizer.

How wide the valley is, is a result too: a method with a narrow one needs more tuning.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from scripts.reports.pictures.picture import WIDTH, Picture
from scripts.reports.pictures.svg import SERIES, svg
from scripts.reports.tuning import Trial, Tuning
from scripts.study.rates import numbers_in

_RATE = "learning-rate"


def rates(tuning: Tuning | None) -> Picture | None:
    """Draw the mean loss of every trial against its rate; None where rates were not tuned."""
    shown = [trial for trial in tuning.trials if _point(trial)] if tuning else []
    panels: dict[str, dict[tuple[int, str], list[Trial]]] = {}
    for trial in shown:
        rows = panels.setdefault(trial.optimizer, {})
        rows.setdefault((trial.variant, trial.row), []).append(trial)
    if tuning is None or not any(len(t) > 1 for rows in panels.values() for t in rows.values()):
        return None
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.5 * down))
    axes = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    tips: dict[str, list[str]] = {}
    for number, (axis, (optimizer, rows)) in enumerate(zip(axes, panels.items(), strict=False)):
        _panel(axis, rows, joined=len(tuning.options) < 2, key=f"rates-{number}", tips=tips)
        axis.set_title(optimizer)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return Picture(
        "Loss against learning rate",
        "Mean final validation loss over the tuning seeds of every trial; the ring is the one "
        "chosen. Trials that failed on a seed show the seeds that finished. A wide valley forgives "
        "a rate that is off; a best trial at the edge may not be the best there is.",
        svg(
            figure,
            "rates",
            "Validation loss against learning rate",
            " ".join(f"{tip}." for texts in tips.values() for tip in texts),
            tips,
        ),
    )


def _point(trial: Trial) -> tuple[float, float] | None:
    """Return a trial's rate and mean loss; None where it lacks one, or a log scale cannot show."""
    rate = numbers_in(trial.values.get(_RATE, ""))
    return (rate[0], trial.mean) if rate and rate[0] > 0.0 and trial.mean is not None else None


def _panel(
    axis: Any,
    rows: dict[tuple[int, str], list[Trial]],
    joined: bool,
    key: str,
    tips: dict[str, list[str]],
) -> None:
    for number, ((_, name), trials) in enumerate(rows.items()):
        drawn = [(point, trial) for trial in trials if (point := _point(trial))]
        drawn.sort(key=lambda each: each[0])
        x, y = zip(*(point for point, _ in drawn), strict=True)
        colour, gid = SERIES[number % len(SERIES)], f"{key}-{number}"
        if joined:  # of several options a line would zigzag
            axis.plot(x, y, "-", color=colour, linewidth=1.0)
        axis.plot(x, y, "o", color=colour, markersize=4.0, label=name, gid=gid)
        tips[gid] = [_tip(trial) for _, trial in drawn]
        for point in (point for point, trial in drawn if trial.chosen):
            axis.plot(*point, "o", markersize=9.0, markerfacecolor="none", markeredgecolor=colour)
    axis.set_xscale("log")
    axis.legend(loc="best")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("validation loss (nats per token)")
    axis.label_outer(remove_inner_ticks=False)


def _tip(trial: Trial) -> str:
    values = ", ".join(f"{option} {value}" for option, value in trial.values.items())
    return f"{trial.row}, {values}: {trial.mean:.4f}{', chosen' if trial.chosen else ''}"
