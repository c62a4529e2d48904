"""The learning rate of each optimizer, chosen by the dense runs of seeds that are not reported.

choose_rate is the one rule for it: the runner and the report both choose by it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping

from scripts.study.folder import MatrixFolder
from scripts.study.rates import choose_rate, mean_losses
from scripts.study.records import CellRecord, Chosen, ChosenRate
from scripts.study.spec import LISTS, typed
from scripts.study.spec import RATE as _OPTION
from scripts.study.state import results

RATE = typed(_OPTION)
#: Axes of pruning: a rate is not chosen apart for their values.
_PRUNING = (typed(LISTS["MATRIX_PRUNING_METHODS"]), typed(LISTS["MATRIX_SPARSITIES"]))


def choose(cells: Iterable[CellRecord], losses: Mapping[str, float]) -> list[ChosenRate]:
    """Return the rate of each group of cells by choose_rate.

    `cells` are the tuning cells and `losses` their final validation losses by name, infinity where
    a run failed. A group agrees in all axes but the rate and those of pruning.
    """
    groups: dict[Hashable, tuple[dict[str, str], dict[str, dict[Hashable, float]]]] = {}
    for cell in cells:
        group = {a: v for a, v in cell.axes.items() if a != RATE and a not in _PRUNING}
        run = (cell.seed, *(cell.axes.get(axis) for axis in _PRUNING))
        _, rates = groups.setdefault(frozenset(group.items()), (group, {}))
        rates.setdefault(cell.axes[RATE], {})[run] = losses[cell.name]
    chosen = []
    for group, rates in groups.values():
        means = mean_losses(rates)
        finite = {rate: mean if math.isfinite(mean) else None for rate, mean in means.items()}
        chosen.append(ChosenRate(group=group, rate=choose_rate(rates), losses=finite))
    return chosen


def rate_for(axes: Mapping[str, str], chosen: Iterable[ChosenRate]) -> str | None:
    """Return the rate that was chosen for a cell with these values, by the nearest group."""
    matching = [one for one in chosen if one.group.items() <= axes.items()]
    nearest = max(matching, key=lambda one: len(one.group), default=None)
    return nearest.rate if nearest else None


def chosen_rates(folder: MatrixFolder, cells: Iterable[CellRecord]) -> list[ChosenRate]:
    """Choose by the tuning cells, which have all ended; write it to the journal if it is new."""
    tuning = [cell for cell in cells if cell.tuning]
    chosen = choose(tuning, {cell.name: _loss(folder, cell.name) for cell in tuning})
    before = [event.rates for event in folder.journal() if isinstance(event, Chosen)]
    if before[-1:] != [tuple(chosen)]:
        folder.write(Chosen(rates=tuple(chosen)))
    return chosen


def _loss(folder: MatrixFolder, name: str) -> float:
    loss = results(folder, name).val_loss if folder.finished(name) else None
    return math.inf if loss is None else float(loss)
