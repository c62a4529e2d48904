"""Which learning rate each optimizer is reported with, chosen on seeds that are not reported.

The rule is that of the matrix, choose_rate: of the dense runs of an optimizer with the tuning
seeds, the rate whose mean final validation loss is lowest; of equal ones the smaller; a rate that
fails on any of them is out.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from scripts.reports.rows import DENSE, age, options_key
from scripts.reports.runs import Run
from scripts.study.rates import choose_rate

RATE = "LEARNING_RATE"


@dataclass(frozen=True)
class Trial:
    """A rate that was tried: its losses by tuning seed, and whether it was chosen.

    losses: of the seeds that have finished with a finite loss.
    """

    optimizer: str
    variant: int
    rate: str
    losses: dict[int, float]
    tokens: int
    chosen: bool = False

    @property
    def mean(self) -> float | None:
        """Mean final validation loss over the seeds that have finished; None where none has."""
        return statistics.fmean(self.losses.values()) if self.losses else None


@dataclass(frozen=True)
class Tuning:
    """All trials, the runs that are left to report, and what is to be known of the choice."""

    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    reported: tuple[Run, ...]
    remarks: tuple[str, ...]


def tune(runs: Sequence[Run], named: Iterable[int] | None = None) -> Tuning | None:
    """Choose a rate for each optimizer; None where none is to be chosen.

    `named` are the tuning seeds; None: those seeds that ran with several rates, when others did
    not. Without such seeds every rate stays a row of its own. Where no rate can be chosen for an
    optimizer, all its rates stay.
    """
    seeds = _tuning_seeds(runs) if named is None else set(named)
    groups: dict[Hashable, list[Run]] = {}
    for run in _tuning_runs(runs, seeds, fall_back=bool(named)):
        groups.setdefault(_group(run), []).append(run)
    trials: list[Trial] = []
    chosen: dict[Hashable, str | None] = {}
    for number, (group, members) in enumerate(groups.items()):
        tried, chosen[group] = _choose(number, members)
        trials += tried
    if not named and (not trials or all(_lone(trial, trials) for trial in trials)):
        return None
    reported = tuple(run for run in runs if run.seed not in seeds and _stays(run, chosen))
    trials.sort(key=lambda trial: (trial.optimizer, trial.variant, float(trial.rate)))
    return Tuning(tuple(sorted(seeds)), tuple(trials), reported, tuple(_remarks(trials)))


def _tuning_seeds(runs: Iterable[Run]) -> set[int]:
    """Return the seeds that ran with several rates, when others did not."""
    families: dict[Hashable, list[Run]] = {}
    for run in runs:
        families.setdefault(options_key(run, besides=(RATE,)), []).append(run)
    several: set[int] = set()
    single: set[int] = set()
    for members in families.values():
        rates: dict[int, set[str]] = {}
        for run in members:
            rates.setdefault(run.seed, set()).add(run.options.get(RATE, ""))
        if len(set().union(*rates.values())) > 1:
            several |= {seed for seed, found in rates.items() if len(found) > 1}
            single |= {seed for seed, found in rates.items() if len(found) == 1}
    return several if single - several else set()


def _tuning_runs(runs: Iterable[Run], seeds: set[int], fall_back: bool) -> list[Run]:
    """Return the runs that a rate is chosen by: the dense ones; with `fall_back` all, if none is.

    So does a matrix without a dense cell, whose tuning seeds are known.
    """
    tried = [run for run in runs if run.seed in seeds and math.isfinite(_rate(run))]
    dense = [run for run in tried if run.options.get("PRUNING_METHOD", DENSE) == DENSE]
    return dense or (tried if fall_back else [])


def _group(run: Run) -> Hashable:
    """Return what runs with a rate of their own have in common: all but the rate and pruning."""
    return options_key(run, besides=(RATE,), pruning=False)


def _rate(run: Run) -> float:
    """Return the learning rate of a run; nan where its config has none."""
    try:
        return float(run.options.get(RATE, "nan"))
    except ValueError:
        return math.nan


def _choose(number: int, runs: Sequence[Run]) -> tuple[list[Trial], str | None]:
    """Return the trials of a group of runs, and the rate that is chosen."""
    by_rate: dict[float, list[Run]] = {}
    for run in runs:
        by_rate.setdefault(_rate(run), []).append(run)
    texts = {rate: members[0].options[RATE] for rate, members in by_rate.items()}
    losses = {texts[rate]: _losses(members) for rate, members in by_rate.items()}
    best = choose_rate(losses)
    trials = [
        Trial(
            optimizer=members[0].options.get("OPTIMIZER", "?"),
            variant=number,
            rate=texts[rate],
            losses=_by_seed(losses[texts[rate]]),
            tokens=sum(int(run.measured("tokens") or 0) for run in members),
        )
        for rate, members in sorted(by_rate.items())
    ]
    return [dataclasses.replace(t, chosen=t.rate == best) for t in trials], best


def _losses(runs: Sequence[Run]) -> dict[tuple[int, Hashable], float]:
    """Return the final losses of a rate by seed and options; infinity where no run has finished.

    Of several runs of a seed the earliest that has finished counts, as in the rows.
    """
    losses: dict[tuple[int, Hashable], float] = {}
    for run in sorted(runs, key=age):
        key = run.seed, options_key(run, besides=(RATE,))
        if not math.isfinite(losses.get(key, math.inf)):
            losses[key] = run.loss if run.finished else math.inf
    return losses


def _by_seed(losses: dict[tuple[int, Hashable], float]) -> dict[int, float]:
    """Return the mean loss of each seed whose runs have all finished, in the order of seeds."""
    seeds: dict[int, list[float]] = {}
    for (seed, _), loss in losses.items():
        seeds.setdefault(seed, []).append(loss)
    means = {seed: statistics.fmean(seeds[seed]) for seed in sorted(seeds)}
    return {seed: mean for seed, mean in means.items() if math.isfinite(mean)}


def _lone(trial: Trial, trials: Sequence[Trial]) -> bool:
    return sum(other.variant == trial.variant for other in trials) == 1


def _stays(run: Run, chosen: dict[Hashable, str | None]) -> bool:
    """Whether a run is reported: its optimizer has its chosen rate, or none was chosen."""
    best = chosen.get(_group(run))
    return best is None or _rate(run) == float(best)


def _remarks(trials: Sequence[Trial]) -> list[str]:
    groups: dict[int, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.variant, []).append(trial)
    budgets = {
        (sum(len(t.losses) for t in found), sum(t.tokens for t in found))
        for found in groups.values()
    }
    remarks = ["Every optimizer was tuned with the same number of runs and tokens."]
    if len(budgets) > 1:
        remarks = [
            "The budgets are not equal: the optimizers were tuned with different numbers of runs "
            "or tokens, which favours those with more."
        ]
    for found in groups.values():
        name = found[0].optimizer
        best = next((trial for trial in found if trial.chosen), None)
        if len({len(trial.losses) for trial in found}) > 1:
            remarks.append(f"{name}: not every rate has every tuning seed; those are left aside.")
        if best is None:
            remarks.append(f"{name}: no rate has finished on every tuning seed; none is chosen.")
        elif len(found) > 1 and best in (found[0], found[-1]):
            remarks.append(
                f"{name}: the best rate, {best.rate}, is at the edge of those tried; a better one "
                "may lie beyond."
            )
    return remarks
