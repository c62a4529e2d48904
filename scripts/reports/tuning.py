"""The learning rate that each optimizer is reported with, chosen on seeds that are not reported.

The rule is the matrix's choose_rate: of an optimizer's dense runs with the tuning seeds, the rate
with the lowest mean final validation loss; of equal ones the smallest. A rate that fails on any of
them is out. With MATRIX_TUNE every row has its own trials, of several options.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scripts.reports.option_values import method_of, options_key
from scripts.reports.rows import DENSE, age
from scripts.reports.runs import Run
from scripts.study.rates import choose_rate, numbers_in, trial_text
from scripts.study.spec import option_name, typed

RATE = "LEARNING_RATE"


@dataclass(frozen=True)
class Trial:
    """A rate that was tried: its losses by tuning seed, and whether it was chosen.

    losses: of the seeds that finished with a finite loss. values: of all tuned options, by name as
    typed. row: what it was tuned for, an optimizer or, with several options, also a pruning method.
    """

    optimizer: str
    variant: int
    rate: str
    losses: dict[int, float]
    tokens: int
    chosen: bool = False
    values: Mapping[str, str] = field(default_factory=dict)
    row: str = ""

    @property
    def mean(self) -> float | None:
        """Return the mean final validation loss over the finished seeds; None without one."""
        return statistics.fmean(self.losses.values()) if self.losses else None


@dataclass(frozen=True)
class Tuning:
    """All trials, the runs left to report, and remarks on the choice.

    options: the tuned ones as typed; empty where only the learning rate is chosen, by dense runs.
    """

    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    reported: tuple[Run, ...]
    remarks: tuple[str, ...]
    options: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the symbols of the options that were tuned for every row."""
        return tuple(map(option_name, self.options))


def tune(
    runs: Sequence[Run], named: Iterable[int] | None = None, options: Sequence[str] = ()
) -> Tuning | None:
    """Choose a rate for each optimizer; None where there is no choice.

    `named` are the tuning seeds; None: the seeds that ran with several rates, if others did not.
    Without such seeds every rate stays its own row. Where no rate can be chosen for an optimizer,
    all its rates stay. `options`, as typed: these were tuned, for every row.
    """
    seeds = _tuning_seeds(runs) if named is None else set(named)
    apart = _Apart(tuple(options))
    tried = [run for run in runs if run.seed in seeds]
    groups: dict[Hashable, list[Run]] = {}
    for run in tried if options else _tuning_runs(tried, fall_back=bool(named)):
        groups.setdefault(apart.group(run), []).append(run)
    trials: list[Trial] = []
    chosen: dict[Hashable, str | None] = {}
    for number, (group, members) in enumerate(groups.items()):
        found, chosen[group] = _choose(number, members, apart)
        trials += found
    if not named and (not trials or all(_lone(trial, trials) for trial in trials)):
        return None
    reported = tuple(run for run in runs if run.seed not in seeds and apart.stays(run, chosen))
    trials.sort(key=lambda trial: (trial.optimizer, trial.variant, numbers_in(trial.rate)))
    remarks = tuple(_remarks(trials))
    return Tuning(tuple(sorted(seeds)), tuple(trials), reported, remarks, tuple(options))


@dataclass(frozen=True)
class _Apart:
    """The distinction between trials: the rate, or the tuned `options`, as typed."""

    options: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(option_name(option) for option in self.options) or (RATE,)

    def group(self, run: Run) -> Hashable:
        """Return a key equal for runs with one choice: without options, pruning is ignored."""
        return options_key(run, besides=self.names, pruning=bool(self.options))

    def values(self, run: Run) -> dict[str, str]:
        """Return the values a run tries, by option as typed, without those that do not apply."""
        return {typed(name): run.options[name] for name in self.names if name in run.options}

    def trial(self, run: Run) -> str:
        """Return what a run tries, as text: its rate, or all tuned values."""
        return trial_text(self.values(run)) if self.options else run.options[RATE]

    def stays(self, run: Run, chosen: Mapping[Hashable, str | None]) -> bool:
        """Return whether a run is reported: it has the chosen values, or none were chosen."""
        best = chosen.get(self.group(run))
        if best is None:
            return True
        return self.trial(run) == best if self.options else _rate(run) == float(best)


def _tuning_seeds(runs: Iterable[Run]) -> set[int]:
    """Return the seeds that ran with several rates, if others did not."""
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


def _tuning_runs(runs: Iterable[Run], fall_back: bool) -> list[Run]:
    """Return the runs that decide a rate: the dense ones; with `fall_back` all, if none is dense.

    A matrix without a dense cell does the same, if its tuning seeds are known.
    """
    tried = [run for run in runs if math.isfinite(_rate(run))]
    dense = [run for run in tried if method_of(run.options) == DENSE]
    return dense or (tried if fall_back else [])


def _rate(run: Run) -> float:
    """Return the learning rate of a run; NaN where its config has none."""
    try:
        return float(run.options.get(RATE, "nan"))
    except ValueError:
        return math.nan


def _choose(number: int, runs: Sequence[Run], apart: _Apart) -> tuple[list[Trial], str | None]:
    """Return the trials of a group of runs, and the one that is chosen."""
    by_trial: dict[Hashable, list[Run]] = {}
    for run in runs:  # 1e-3 and 0.001 are the same rate
        by_trial.setdefault(numbers_in(apart.trial(run)) or apart.trial(run), []).append(run)
    texts = {trial: apart.trial(members[0]) for trial, members in by_trial.items()}
    losses = {texts[trial]: _losses(members, apart) for trial, members in by_trial.items()}
    best = choose_rate(losses)
    trials = [
        Trial(
            optimizer=members[0].options.get("OPTIMIZER", "?"),
            variant=number,
            rate=texts[trial],
            losses=_by_seed(losses[texts[trial]]),
            tokens=sum(int(run.measured("tokens") or 0) for run in members),
            values=apart.values(members[0]),
            row=_row_of(members[0]) if apart.options else members[0].options.get("OPTIMIZER", "?"),
        )
        for trial, members in by_trial.items()
    ]
    trials.sort(key=lambda trial: numbers_in(trial.rate))
    return [dataclasses.replace(t, chosen=t.rate == best) for t in trials], best


def _row_of(run: Run) -> str:
    """Return the optimizer, method and sparsity of a run."""
    optimizer = run.options.get("OPTIMIZER", "?")
    method = method_of(run.options)
    if method == DENSE:
        return f"{optimizer} dense"
    return f"{optimizer} + {method} {run.options.get('TARGET_SPARSITY', '')}".strip()


def _losses(runs: Sequence[Run], apart: _Apart) -> dict[tuple[int, Hashable], float]:
    """Return the final losses of a trial by seed and options; infinity if no run has finished.

    Of several runs of a seed the earliest finished one counts, as in the rows.
    """
    losses: dict[tuple[int, Hashable], float] = {}
    for run in sorted(runs, key=age):
        key = run.seed, options_key(run, besides=apart.names)
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


def _remarks(trials: Sequence[Trial]) -> list[str]:
    groups: dict[int, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.variant, []).append(trial)
    budgets = {
        (sum(len(t.losses) for t in found), sum(t.tokens for t in found))
        for found in groups.values()
    }
    what = "row" if any(trial.row != trial.optimizer for trial in trials) else "optimizer"
    remarks = [f"Every {what} was tuned with the same number of runs and tokens."]
    if len(budgets) > 1:
        remarks = [
            f"The budgets are not equal: the {what}s were tuned with different numbers of runs "
            "or tokens, which favours those with more."
        ]
    for found in groups.values():
        name = found[0].row
        best = next((trial for trial in found if trial.chosen), None)
        if len({len(trial.losses) for trial in found}) > 1:
            remarks.append(f"{name}: not every rate has every tuning seed; those are left out.")
        if best is None:
            remarks.append(f"{name}: no rate has finished on every tuning seed; none is chosen.")
        else:
            remarks += [f"{name}: {text}" for text in _at_edges(best, found)]
    return remarks


def _at_edges(best: Trial, tried: Sequence[Trial]) -> Iterator[str]:
    """Yield a sentence for each option whose value in the best trial is the smallest or largest.

    Of two listed values one is always at an edge, and a decay of 0 cannot be lower.
    """
    for option, value in best.values.items():
        numbers = sorted({n for trial in tried for n in numbers_in(trial.values.get(option, ""))})
        own = numbers_in(value)
        fewest = 2 if option == typed(RATE) else 3
        if len(numbers) < fewest or not own or own[0] not in (numbers[0], numbers[-1]):
            continue
        if own[0] == 0.0:
            continue
        name = "rate" if option == typed(RATE) else option
        yield (
            f"the best {name}, {value}, is at the edge of those tried; a better one may lie beyond."
        )
