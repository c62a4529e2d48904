"""The one rule by which a learning rate, or a trial of several options, is chosen.

The matrix runs by it, and the report repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import TypeVar

#: What tells the tuning runs of a rate apart.
Key = TypeVar("Key", bound=Hashable)
#: The rule in words, wherever a choice is shown.
RULE = (
    "the lowest mean final validation loss over the tuning seeds, of the dense runs; of equal ones "
    "the smaller rate; a rate that fails on any of them is out"
)
#: The same where every row is tuned by trials of its own.
TRIALS_RULE = (
    "the lowest mean final validation loss over the tuning seeds, of the row's own trials; of "
    "equal ones the smaller values; a trial that fails on any of them is out"
)


def mean_losses(losses: Mapping[str, Mapping[Key, float]]) -> dict[str, float]:
    """Return the mean final validation loss of each rate; infinity where the rate is out.

    `losses` are by rate, then by tuning run: its seed, and what else tells runs of a rate apart. A
    rate is out when a run failed (its loss is not finite), or lacks a run that another rate has.
    """
    runs = {run for found in losses.values() for run in found}
    return {
        rate: math.fsum(found.values()) / len(found)
        if found.keys() == runs and all(map(math.isfinite, found.values()))
        else math.inf
        for rate, found in losses.items()
    }


def choose_rate(losses: Mapping[str, Mapping[Key, float]]) -> str | None:
    """Return the rate of the lowest mean loss, of equal ones the smaller; None if all are out.

    `losses` are as in mean_losses, a rate as the text that was given; or a trial, as trial_text
    has it.
    """
    means = mean_losses(losses)
    best = min(means, key=lambda rate: (means[rate], numbers_in(rate)), default=None)
    return best if best is not None and math.isfinite(means[best]) else None


def trial_text(values: Mapping[str, str]) -> str:
    """Return how a trial of several options is known: "learning-rate 0.002, weight-decay 0.1"."""
    return ", ".join(f"{option} {value}" for option, value in values.items())


def numbers_in(trial: str) -> tuple[float, ...]:
    """Return the numbers of a rate or a trial, by which smaller ones come first."""
    found = []
    for word in trial.replace(",", " ").split():
        with suppress(ValueError):
            found.append(float(word))
    return tuple(found)
