"""The learning rate of each optimizer, chosen by the dense runs of seeds that are not reported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from scripts.study.folder import MatrixFolder
from scripts.study.rates import best_rate, mean_loss
from scripts.study.spec import LISTS, typed
from scripts.study.spec import RATE as _OPTION
from scripts.study.state import results

RATE = typed(_OPTION)
#: Axes that a rate is not chosen apart for.
_TOGETHER = (typed(LISTS["MATRIX_PRUNING_METHODS"]), typed(LISTS["MATRIX_SPARSITIES"]), RATE)


def choose(
    cells: Mapping[str, Mapping[str, Any]], losses: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return the rate of each group by rates.RULE, as {"for", "rate", "losses"}.

    `cells` are the tuning cells and `losses` their final validation losses, infinity where a run
    failed. A group agrees in all axes but the rate and those of pruning. `rate` is None where no
    rate works with every seed; `losses` are the means.
    """
    groups: list[tuple[dict[str, str], dict[str, list[float]]]] = []
    for name, cell in cells.items():
        group = {axis: value for axis, value in cell["point"].items() if axis not in _TOGETHER}
        rates = next((rates for known, rates in groups if known == group), None)
        if rates is None:
            rates = {}
            groups.append((group, rates))
        rates.setdefault(cell["point"][RATE], []).append(losses[name])
    chosen: list[dict[str, Any]] = []
    for group, rates in groups:
        means = {rate: mean_loss(found) for rate, found in rates.items()}
        finite = {rate: mean if math.isfinite(mean) else None for rate, mean in means.items()}
        chosen.append({"for": group, "rate": best_rate(rates), "losses": finite})
    return chosen


def rate_for(point: Mapping[str, str], chosen: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the rate that was chosen for a point, by the group that is nearest to it."""
    fitting = [one for one in chosen if one["for"].items() <= point.items()]
    best = max(fitting, key=lambda one: len(one["for"]), default=None)
    return best["rate"] if best else None


def chosen_rates(folder: MatrixFolder, cells: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Choose by the tuning cells, which have all ended, and have the journal say so."""
    tuning = {cell["name"]: cell for cell in cells if cell["tuning"]}
    chosen = choose(tuning, {name: _loss(folder, name) for name in tuning})
    before = [line.get("rates") for line in folder.journal() if line["event"] == "chosen"]
    if before[-1:] != [chosen]:
        folder.write("chosen", rates=chosen)
    return chosen


def _loss(folder: MatrixFolder, name: str) -> float:
    loss = results(folder, name)["val_loss"] if folder.finished(name) else None
    return math.inf if loss is None else float(loss)
