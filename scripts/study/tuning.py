"""Choose the learning rate of each optimizer, by dense runs of seeds that are not reported.

With MATRIX_TUNE every row has its own trials, and the best of them is chosen in the same way. The
rule is choose_rate, for the runner and the report.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping

from scripts.study.folder import MatrixFolder
from scripts.study.rates import choose_rate, mean_losses, trial_text
from scripts.study.records import CellRecord, Chosen, ChosenRate
from scripts.study.spec import LISTS, typed
from scripts.study.spec import RATE as _OPTION
from scripts.study.state import results

RATE = typed(_OPTION)
#: Axes of pruning: their values share one rate.
_PRUNING = (typed(LISTS["MATRIX_PRUNING_METHODS"]), typed(LISTS["MATRIX_SPARSITIES"]))


def tried(axes: Mapping[str, str], options: Collection[str] = ()) -> str:
    """Return what a cell tries: its rate, or the trial of the tuned `options`."""
    if not options:
        return axes[RATE]
    return trial_text({option: axes[option] for option in options if option in axes})


def choose(
    cells: Iterable[CellRecord], losses: Mapping[str, float], options: Collection[str] = ()
) -> list[ChosenRate]:
    """Return the rate, or the trial, of each group of cells by choose_rate.

    `cells` are the tuning cells and `losses` their final validation losses by name, infinity where
    a run failed. A group agrees in all axes but the rate and those of pruning; with tuned
    `options`, in all but these, so that every pruning method has its own.
    """
    apart = options or (RATE, *_PRUNING)
    groups: dict[Hashable, tuple[dict[str, str], dict[str, dict[Hashable, float]]]] = {}
    for cell in cells:
        group = {a: v for a, v in cell.axes.items() if a not in apart}
        run = (cell.seed, *(cell.axes.get(axis) for axis in _PRUNING))
        _, rates = groups.setdefault(frozenset(group.items()), (group, {}))
        rates.setdefault(tried(cell.axes, options), {})[run] = losses[cell.name]
    chosen = []
    for group, rates in groups.values():
        means = mean_losses(rates)
        finite = {rate: mean if math.isfinite(mean) else None for rate, mean in means.items()}
        chosen.append(ChosenRate(group=group, rate=choose_rate(rates), losses=finite))
    return chosen


def rate_for(axes: Mapping[str, str], chosen: Iterable[ChosenRate]) -> str | None:
    """Return the rate chosen for a cell with these values, by the nearest group."""
    matching = [one for one in chosen if one.group.items() <= axes.items()]
    nearest = max(matching, key=lambda one: len(one.group), default=None)
    return nearest.rate if nearest else None


def chosen_rates(
    folder: MatrixFolder, cells: Iterable[CellRecord], options: Collection[str] = ()
) -> list[ChosenRate]:
    """Choose by the tuning cells, which have all ended."""
    tuning = [cell for cell in cells if cell.tuning]
    losses = {cell.name: _loss(folder, cell.name) for cell in tuning}
    return choose(tuning, losses, options)


def record_choice(folder: MatrixFolder, chosen: Iterable[ChosenRate]) -> None:
    """Write the choice to the journal if it is new."""
    before = [event.rates for event in folder.journal() if isinstance(event, Chosen)]
    if before[-1:] != [tuple(chosen)]:
        folder.write(Chosen(rates=tuple(chosen)))


def _loss(folder: MatrixFolder, name: str) -> float:
    loss = results(folder, name).val_loss if folder.finished(name) else None
    return math.inf if loss is None else float(loss)
