"""Rows: runs that differ only in the seed; their names, and which rows can be compared.

Everything is derived from the runs' own config and run.json.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.reports.letters import letter
from scripts.reports.option_values import (
    method_of,
    not_compared_of,
    options_key,
    plain_value,
    setting,
)
from scripts.reports.runs import Run
from scripts.reports.splits import LOSS, VALIDATION, quoted_split
from scripts.reports.statistics import Interval, interval

#: The method that prunes nothing, and the one that others are compared with.
DENSE, REFERENCE = "none", "magnitude"
#: Options that determine the size of the model.
MODEL_SIZE = ("MODEL", "N_LAYER", "N_HEAD", "N_EMBD")
#: Largest deviation of a reached sparsity from the target, or from that of a compared row.
CLOSE = 1e-3
#: Most differences in a name, and its length; rows with more are named by letters.
_MOST_WORDS, _LONGEST = 3, 44


@dataclass(frozen=True)
class Row:
    """Runs of equal options and conditions, one for each seed, in the order of seeds.

    conditions: must be equal for a comparison; None where a run did not record one.
    repeats: further runs of a seed, left out.
    lost: seeds that were run and have no results.
    series: its name without the optimizer: the method and other distinctions.
    split: the one whose loss counts.
    tuned: options whose values were chosen for each row separately.
    chosen: these, and a learning rate that was chosen for the optimizer.
    detail: the meaning of a letter in its name, if it differs in too much for a name.
    """

    options: Mapping[str, str]
    conditions: Mapping[str, Any]
    runs: tuple[Run, ...]
    repeats: tuple[Run, ...] = ()
    lost: tuple[int, ...] = ()
    series: str = ""
    split: str = VALIDATION
    tuned: frozenset[str] = frozenset()
    chosen: frozenset[str] = frozenset()
    detail: str = ""

    @property
    def unfinished(self) -> int:
        """Return the number of seeds without results."""
        return len(self.lost)

    @property
    def label(self) -> str:
        """Return the row's name: optimizer and series."""
        return f"{self.optimizer} {'' if self.method == DENSE else '+ '}{self.series}"

    @property
    def optimizer(self) -> str:
        """Return the optimizer's name."""
        return self.options.get("OPTIMIZER", "?")

    @property
    def method(self) -> str:
        """Return the pruning method's name; none without pruning."""
        return method_of(self.options)

    @property
    def asked(self) -> float:
        """Return the target sparsity of the prunable weights."""
        asked = self.runs[0].measured("sparsity_asked")
        assert asked is not None, "a run without it has no results"
        return asked

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds with results."""
        return tuple(run.seed for run in self.runs)

    def results(self, name: str) -> list[float]:
        """Return a number of the results of every run that has it."""
        return [value for run in self.runs if (value := run.measured(name)) is not None]

    @property
    def loss(self) -> Interval:
        """Return the final loss: mean over the seeds, and its interval."""
        return self.loss_over(self.seeds)

    def loss_over(self, seeds: Collection[int]) -> Interval:
        """Return the final loss over its runs with a seed in `seeds`."""
        return interval([self.loss_of(run) for run in self.runs if run.seed in seeds])

    def loss_of(self, run: Run) -> float:
        """Return the final loss of one of its runs, over the row's split."""
        loss = run.measured(LOSS[self.split])
        assert loss is not None, f"a run without a {self.split} loss in a row of it"
        return loss

    @property
    def perplexity(self) -> Interval:
        """Return the perplexity at the mean loss and at the ends of its interval.

        The loss is what scatters over seeds, and its mean is tested; an interval of perplexities
        themselves could reach below 1.
        """
        loss = self.loss
        low, high = (None if end is None else math.exp(end) for end in (loss.low, loss.high))
        return Interval(math.exp(loss.mean), low, high, None, loss.count)

    def over_seeds(self, name: str) -> Interval | None:
        """Return the mean of a number in the results, and its interval; None if no run has it."""
        values = self.results(name)
        return interval(values) if values else None

    def of(self, name: str, choose: Callable[[Iterable[float]], float] = max) -> float | None:
        """Return one number for all runs: the largest, or the choice of `choose`."""
        values = self.results(name)
        return choose(values) if values else None


def rows_of(
    runs: Sequence[Run], tuned: Collection[str] = (), chosen: Collection[str] = ()
) -> list[Row]:
    """Group the finished runs into rows, in display order, and name them.

    `tuned` are options, by symbol, that were tuned for every row with equal budgets; `chosen` those
    that were chosen for its optimizer.
    """
    split = quoted_split(runs)
    groups: dict[Hashable, list[Run]] = {}
    for run in sorted(runs, key=age):
        if run.finished:
            groups.setdefault(_key(run), []).append(run)
    without: dict[Hashable, set[int]] = {}
    for run in runs:
        if not run.finished:
            without.setdefault(options_key(run), set()).add(run.seed)
    rows = []
    for members in groups.values():
        first: dict[int, Run] = {}
        for run in members:
            first.setdefault(run.seed, run)
        kept = tuple(first[seed] for seed in sorted(first))
        rest = tuple(run for run in members if first[run.seed] is not run)
        lost = tuple(sorted(without.get(options_key(kept[0]), set()) - first.keys()))
        row = Row(kept[0].options, _conditions(kept[0]), kept, rest, lost, split=split)
        own = frozenset(tuned)
        rows.append(dataclasses.replace(row, tuned=own, chosen=own | frozenset(chosen)))
    named = _named(rows)
    return sorted(named, key=lambda row: (row.asked, row.optimizer, _place(row.method), row.label))


def differences(a: Row, b: Row) -> dict[str, tuple[str | None, str | None]]:
    """Return the options in which two rows differ, with both values; None if a row lacks one."""
    same = not_compared_of(a.options) & not_compared_of(b.options)
    return {
        name: (a.options.get(name), b.options.get(name))
        for name in sorted((a.options.keys() | b.options.keys()) - same)
        if plain_value(a.options.get(name)) != plain_value(b.options.get(name))
    }


def objections(a: Row, b: Row, same_sparsity: bool = False) -> list[str]:
    """Return why two rows cannot be compared, a phrase each; empty where they can."""
    found = []
    for name in a.conditions:
        ours, theirs = a.conditions[name], b.conditions[name]
        if ours is None or theirs is None:
            found.append(f"{name} is not on record")
        elif ours != theirs:
            found.append(f"{name} differs ({_short(ours)} against {_short(theirs)})")
    for name in ("tokens", "steps"):
        pairs = [(x.measured(name) or 0.0, y.measured(name) or 0.0) for x, y in paired(a, b)]
        unequal = next((pair for pair in pairs if pair[0] != pair[1]), None)
        if unequal:
            found.append(f"{name} differ ({unequal[0]:,.0f} against {unequal[1]:,.0f})")
    found += _devices(a, b)
    whole = a.results("sparsity_whole"), b.results("sparsity_whole")
    if same_sparsity and all(whole) and abs(max(whole[0]) - max(whole[1])) > CLOSE:
        found.append(
            f"sparsity of the whole model differs ({max(whole[0]):.1%} against {max(whole[1]):.1%})"
        )
    return [*found, *_missed(a), *_missed(b)]


def paired(a: Row, b: Row) -> list[tuple[Run, Run]]:
    """Return the runs of two rows with a common seed, in the order of seeds."""
    others = {run.seed: run for run in b.runs}
    return [(run, others[run.seed]) for run in a.runs if run.seed in others]


def paired_differences(a: Row, b: Row) -> list[float]:
    """Return the final losses of `a` minus those of `b`, in the order of the common seeds."""
    return [a.loss_of(ours) - b.loss_of(theirs) for ours, theirs in paired(a, b)]


def _devices(a: Row, b: Row) -> list[str]:
    """Return a phrase if runs of one seed used two models of CPU or GPU, both known."""
    for ours, theirs in paired(a, b):
        names = ours.record.device_name, theirs.record.device_name
        if None not in names and names[0] != names[1]:
            return [f"device differs ({names[0]} against {names[1]})"]
    return []


def _missed(row: Row) -> list[str]:
    worst = max(abs(reached - row.asked) for reached in row.results("sparsity_reached"))
    return [f"{row.label} missed its sparsity by {worst:.2%}"] if worst > CLOSE else []


def _conditions(run: Run) -> dict[str, Any]:
    record = run.record
    return {
        "data": record.data.data_hash if record.data else None,
        "first weights": _first_weights(run),
        "code": record.code,
        "precision": record.precision,
        "compiled": record.compiled,
        "effective batch": record.effective_batch,
        # cuda:1 counts as cuda. Old versions did not record it, and are compared with each other.
        "device": (record.device or "unknown").partition(":")[0],
    }


def _first_weights(run: Run) -> str:
    """Return the hash of a run's initial weights; else their path, or "random"."""
    known = run.record.init_from and run.record.init_from.sha256
    return known or run.options.get("INIT_FROM", "") or "random"


def age(run: Run) -> tuple[str, str]:
    """Return a sort key of runs: the earliest first."""
    return run.record.start or "", run.name


def _key(run: Run) -> Hashable:
    return options_key(run), tuple(str(value) for value in _conditions(run).values())


def _place(method: str) -> tuple[int, str]:
    return (0 if method == DENSE else 1 if method == REFERENCE else 2), method


def _named(rows: Sequence[Row]) -> list[Row]:
    """Name every row: optimizer, method, and its differences from others of that name."""
    alike: dict[Hashable, list[Row]] = {}
    for row in rows:
        alike.setdefault((row.optimizer, row.method, row.asked), []).append(row)
    named = []
    for group in alike.values():
        varying = {name for other in group for name in differences(group[0], other)}
        conditions = [
            name
            for name in group[0].conditions
            if len({str(r.conditions[name]) for r in group}) > 1
        ]
        details = [
            ", ".join(
                [setting(name, row.options.get(name)) for name in sorted(varying)]
                + [f"{name} {_short(row.conditions[name])}" for name in conditions]
            )
            for row in group
        ]
        short = len(varying) + len(conditions) <= _MOST_WORDS
        short = short and max(map(len, details)) <= _LONGEST
        for number, (row, detail) in enumerate(zip(group, details, strict=True)):
            name = "dense" if row.method == DENSE else row.method
            series = f"{name} ({detail})" if detail else name
            if short:
                named.append(dataclasses.replace(row, series=series))
            else:
                series = f"{name} {letter(number)}"
                named.append(dataclasses.replace(row, series=series, detail=detail))
    return named


def _short(value: Any) -> str:
    text = "unknown" if value is None else str(value)
    return text[:8] if len(text) >= 40 else text
