"""Which learning rate each optimizer is reported with, chosen on seeds that are not reported.

The rule is that of the matrix: scripts/study/rates.py.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

from scripts.reports.rows import DENSE, options_key
from scripts.reports.runs import Run
from scripts.study.rates import choose_rate

RATE = "LEARNING_RATE"


@dataclass(frozen=True)
class Trial:
    """A rate that was tried: its losses by tuning seed, and whether it was chosen."""

    optimizer: str
    variant: int
    rate: str
    losses: dict[int, float]
    tokens: int
    chosen: bool = False

    @property
    def mean(self) -> float:
        """Mean final validation loss over the tuning seeds."""
        return statistics.fmean(self.losses.values())


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
    not. Without such seeds every rate stays a row of its own.
    """
    families: dict[Hashable, list[Run]] = {}
    for run in runs:
        families.setdefault(options_key(run, besides=(RATE,)), []).append(run)
    seeds = _tuning_seeds(families.values()) if named is None else set(named)
    trials: list[Trial] = []
    chosen: dict[Hashable, str] = {}
    for number, members in enumerate(families.values()):
        tried = [run for run in members if run.seed in seeds and run.finished]
        if tried and tried[0].options.get("PRUNING_METHOD", DENSE) == DENSE:
            own = {run.seed for run in members} & seeds
            found, best = _choose(number, tried, own)
            trials += found
            if best is not None:
                chosen[options_key(tried[0], besides=(RATE,), pruning=False)] = best
    if not named and (not trials or all(_lone(trial, trials) for trial in trials)):
        return None
    reported = tuple(run for run in runs if run.seed not in seeds and _stays(run, chosen))
    trials.sort(key=lambda trial: (trial.optimizer, trial.variant, float(trial.rate)))
    return Tuning(tuple(sorted(seeds)), tuple(trials), reported, tuple(_remarks(trials)))


def _tuning_seeds(families: Iterable[Sequence[Run]]) -> set[int]:
    several: set[int] = set()
    single: set[int] = set()
    for members in families:
        rates: dict[int, set[str]] = {}
        for run in members:
            rates.setdefault(run.seed, set()).add(run.options.get(RATE, ""))
        if len(set().union(*rates.values())) > 1:
            several |= {seed for seed, found in rates.items() if len(found) > 1}
            single |= {seed for seed, found in rates.items() if len(found) == 1}
    return several if single - several else set()


def _choose(
    number: int, tried: Sequence[Run], seeds: Collection[int]
) -> tuple[list[Trial], str | None]:
    """Return what was tried for one optimizer, and the rate that was chosen; None for no rate."""
    by_rate: dict[float, list[Run]] = {}
    for run in tried:
        by_rate.setdefault(float(run.options.get(RATE, "nan")), []).append(run)
    trials = []
    for rate in sorted(by_rate):
        members = sorted(by_rate[rate], key=lambda run: run.seed)
        losses = {run.seed: run.loss for run in members}
        tokens = sum(int(run.measured("tokens") or 0) for run in members)
        text = members[0].options.get(RATE, "")
        name = members[0].options.get("OPTIMIZER", "?")
        trials.append(Trial(name, number, text, losses, tokens))
    best = choose_rate({t.rate: {s: t.losses.get(s, math.inf) for s in seeds} for t in trials})
    return [Trial(**{**vars(t), "chosen": t.rate == best}) for t in trials], best


def _lone(trial: Trial, trials: Sequence[Trial]) -> bool:
    return sum(other.variant == trial.variant for other in trials) == 1


def _stays(run: Run, chosen: dict[Hashable, str]) -> bool:
    """Whether a run is reported: its optimizer has its chosen rate, or was not tuned."""
    optimizer = options_key(run, besides=(RATE,), pruning=False)
    best = chosen.get(optimizer)
    return best is None or float(run.options.get(RATE, "nan")) == float(best)


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
        best = next((trial for trial in found if trial.chosen), None)
        name = found[0].optimizer
        if len({len(trial.losses) for trial in found}) > 1:
            remarks.append(f"{name}: not every rate has every tuning seed; those are left aside.")
        if best is None:
            remarks.append(
                f"{name}: no rate has results of every tuning seed, so none was chosen; each is a "
                "row of its own."
            )
        elif len(found) > 1 and best in (found[0], found[-1]):
            remarks.append(
                f"{name}: the best rate, {best.rate}, is at the edge of those tried; a better one "
                "may lie beyond."
            )
    return remarks
