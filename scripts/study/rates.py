"""The only rule that chooses a learning rate, or a trial of several options.

The matrix applies it, and the report repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import TypeVar

#: Identifies a tuning run of a rate.
Key = TypeVar("Key", bound=Hashable)
#: The rule in words, wherever a choice is shown.
RULE = (
    "the lowest mean final validation loss over the tuning seeds, of the dense runs; of equal ones "
    "the smaller rate; a rate that fails on any of them is out"
)
#: The same where every row is tuned by its own trials.
TRIALS_RULE = (
    "the lowest mean final validation loss over the tuning seeds, of the row's own trials; of "
    "equal ones the smaller values; a trial that fails on any of them is out"
)


def mean_losses(losses: Mapping[str, Mapping[Key, float]]) -> dict[str, float]:
    """Return the mean final validation loss of each rate; infinity where the rate is out.

    `losses` are by rate, then by tuning run: its seed, and what else distinguishes runs of a rate.
    A rate is out when a run failed (its loss is NaN or Inf), or lacks a run that another rate has.
    """
    runs = {run for found in losses.values() for run in found}
    return {
        rate: math.fsum(found.values()) / len(found)
        if found.keys() == runs and all(map(math.isfinite, found.values()))
        else math.inf
        for rate, found in losses.items()
    }


def choose_rate(losses: Mapping[str, Mapping[Key, float]]) -> str | None:
    """Return the rate with the lowest mean loss, of equal ones the smallest; None if all are out.

    `losses` are as in mean_losses. A rate is the text that was given, or a trial's trial_text.
    """
    means = mean_losses(losses)
    best = min(means, key=lambda rate: (means[rate], numbers_in(rate)), default=None)
    return best if best is not None and math.isfinite(means[best]) else None


def trial_text(values: Mapping[str, str]) -> str:
    """Return the name of a trial of several options: "learning-rate 0.002, weight-decay 0.1"."""
    return ", ".join(f"{option} {value}" for option, value in values.items())


def numbers_in(trial: str) -> tuple[float, ...]:
    """Return the numbers of a rate or a trial, for sorting."""
    found = []
    for word in trial.replace(",", " ").split():
        with suppress(ValueError):
            found.append(float(word))
    return tuple(found)
