"""The one rule by which a learning rate is chosen: the matrix runs by it, the report repeats it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

#: What tells the tuning runs of a rate apart.
Key = TypeVar("Key", bound=Hashable)
#: The rule in words, wherever a choice is shown.
RULE = (
    "the lowest mean final validation loss over the tuning seeds, of the dense runs; of equal ones "
    "the smaller rate; a rate that fails on any of them is out"
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

    `losses` are as in mean_losses, a rate as the text that was given.
    """
    means = mean_losses(losses)
    best = min(means, key=lambda rate: (means[rate], float(rate)), default=None)
    return best if best is not None and math.isfinite(means[best]) else None
