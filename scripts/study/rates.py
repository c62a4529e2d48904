"""The one rule by which a learning rate is chosen: the matrix runs by it, the report repeats it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

#: What is said of the rule wherever a choice is shown.
RULE = (
    "the lowest mean final validation loss over the tuning seeds, of the dense runs; of equal ones "
    "the smaller rate; a rate that fails on any of them is out"
)


def mean_loss(losses: Sequence[float]) -> float:
    """Return the mean over the tuning seeds; infinite where one of them failed."""
    return math.fsum(losses) / len(losses)


def best_rate(losses: Mapping[str, Sequence[float]]) -> str | None:
    """Return the rate that RULE chooses; None where every rate failed on some seed.

    `losses` are the final validation losses by rate, one for each tuning seed, infinite where the
    run failed, or has no results.
    """
    means = {rate: mean_loss(found) for rate, found in losses.items()}
    best = min(means, key=lambda rate: (means[rate], float(rate)))
    return best if math.isfinite(means[best]) else None
