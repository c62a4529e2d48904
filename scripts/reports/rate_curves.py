"""Loss against learning rate: a curve for each optimizer or row, and its range of good rates.

The width is a result, too: a method with a narrow range needs more tuning.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from scripts.reports.option_values import options_key
from scripts.reports.rows import DENSE, Row
from scripts.reports.splits import VALIDATION
from scripts.reports.tuning import RATE, Trial, Tuning
from scripts.reports.words import percent
from scripts.study.rates import numbers_in
from scripts.study.spec import typed

#: Nats per token within which a rate counts as good as the best one.
NEAR = 0.02


@dataclass(frozen=True)
class RatePoint:
    """A rate that was tried: its mean loss, whether it was chosen, and its other settings."""

    rate: float
    loss: float
    chosen: bool
    text: str


@dataclass(frozen=True)
class RateCurve:
    """The rates of one optimizer or row, rising. joined: they differ only in the rate.

    split: the one whose loss is drawn.
    """

    optimizer: str
    name: str
    points: tuple[RatePoint, ...]
    joined: bool
    split: str = VALIDATION

    @property
    def best(self) -> RatePoint:
        """Return the point with the lowest loss, of equal ones the smallest rate."""
        return min(self.points, key=lambda point: point.loss)

    @property
    def near(self) -> tuple[float, float]:
        """Return the smallest and the largest rate whose loss is within NEAR of the best."""
        rates = [point.rate for point in self.points if point.loss <= self.best.loss + NEAR]
        return min(rates), max(rates)

    @property
    def rates(self) -> list[float]:
        """Return the rates that were tried, rising."""
        return sorted({point.rate for point in self.points})

    @property
    def edge(self) -> str:
        """Return the edge of the rates at which the best one is: lowest, highest, or empty."""
        if self.best.rate == self.rates[0]:
            return "lowest"
        return "highest" if self.best.rate == self.rates[-1] else ""


def rate_curves(tuning: Tuning | None, rows: Sequence[Row]) -> list[RateCurve]:
    """Return the curves of tuning; else of rows that differ only in their rate."""
    found = _of_trials(tuning) if tuning else _of_rows(rows)
    return [curve for curve in found if len(curve.rates) > 1]


def _of_trials(tuning: Tuning) -> Iterator[RateCurve]:
    groups: dict[tuple[int, str], list[Trial]] = {}
    for trial in tuning.trials:
        groups.setdefault((trial.variant, trial.row), []).append(trial)
    for (_, name), trials in groups.items():
        points = [point for trial in trials if (point := _of_trial(trial))]
        points.sort(key=lambda point: (point.rate, point.loss))
        if points:
            yield RateCurve(trials[0].optimizer, name, tuple(points), len(tuning.options) < 2)


def _of_trial(trial: Trial) -> RatePoint | None:
    """Return a trial's point; None without a rate or loss, or if a log scale cannot show it."""
    rate = numbers_in(trial.values.get(typed(RATE), ""))
    if not rate or rate[0] <= 0.0 or trial.mean is None:
        return None
    text = ", ".join(f"{option} {value}" for option, value in trial.values.items())
    return RatePoint(rate[0], trial.mean, trial.chosen, text)


def _of_rows(rows: Sequence[Row]) -> Iterator[RateCurve]:
    groups: dict[Hashable, list[tuple[float, Row]]] = {}
    for row in rows:
        rate = numbers_in(row.options.get(RATE, ""))
        if rate and rate[0] > 0.0:
            conditions = tuple(str(value) for value in row.conditions.values())
            key = options_key(row.runs[0], besides=(RATE,)), conditions
            groups.setdefault(key, []).append((rate[0], row))
    for members in groups.values():
        members.sort(key=lambda each: each[0])
        first = members[0][1]
        name = f"{first.optimizer} dense"
        if first.method != DENSE:
            name = f"{first.optimizer} + {first.method} {percent(first.asked)}"
        points = [
            RatePoint(rate, row.loss.mean, False, f"{typed(RATE)} {row.options[RATE]}")
            for rate, row in members
        ]
        yield RateCurve(first.optimizer, name, tuple(points), True, first.split)
