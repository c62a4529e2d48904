"""The tables of tuning as text, and the rule in words."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.config.text import joined
from scripts.reports.rate_curves import NEAR, RateCurve
from scripts.reports.table_cells import UNKNOWN, Grid
from scripts.reports.tuning import Tuning


def rule(tuning: Tuning) -> list[str]:
    """Return sentences about how rates were chosen."""
    seeds = ", ".join(map(str, tuning.seeds))
    if tuning.options:
        return [
            f"Every row runs with its best trial of {joined(tuning.options)}: the lowest mean "
            f"final validation loss on seeds {seeds}, of equal ones the smaller values. A trial "
            "that fails on any of these seeds is out. All rows try the same points of the search "
            "space. These seeds are not reported."
        ]
    return [
        "Each optimizer runs at its best rate: the lowest mean final validation loss of its dense "
        f"runs with the tuning seeds ({seeds}), of equal ones the smaller. A rate that fails on "
        "any of these seeds is out. These seeds are not reported.",
    ]


def widths_grid(curves: Sequence[RateCurve]) -> Grid:
    """Return the range of good rates of each curve of loss against rate."""
    titles = (
        "",
        "rates tried",
        "best rate",
        f"{curves[0].split} loss there" if curves else "",
        f"rates within {NEAR:g} nats",
        "factor",
        "best at an edge",
    )
    lines = []
    for curve in curves:
        low, high = curve.near
        lines.append(
            (
                curve.name,
                f"{len(curve.rates)}, {curve.rates[0]:g} to {curve.rates[-1]:g}",
                f"{curve.best.rate:g}",
                f"{curve.best.loss:.4f}",
                f"{low:g} to {high:g}" if low < high else "no other",
                f"{high / low:.2g}",
                curve.edge or "no",
            )
        )
    return Grid(titles, tuple(lines))


def tuning_grid(tuning: Tuning) -> Grid:
    """Return every rate that was tried."""
    seeds = tuning.seeds
    names = tuning.options
    titles = ("", *(names or ("rate",)), *(f"seed {seed}" for seed in seeds), "mean loss", "")
    lines = tuple(
        (
            trial.row,
            *([trial.values.get(n, UNKNOWN) for n in names] if names else [trial.rate]),
            *(f"{trial.losses[seed]:.4f}" if seed in trial.losses else UNKNOWN for seed in seeds),
            UNKNOWN if trial.mean is None else f"{trial.mean:.4f}",
            "chosen" if trial.chosen else "",
        )
        for trial in tuning.trials
    )
    return Grid(titles, lines, tuple("chosen" if t.chosen else "" for t in tuning.trials))
