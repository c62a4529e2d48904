"""Rows that differ only in their length, and their data efficiency."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.reports.comparisons import Comparison
from scripts.reports.efficiency import FEWEST_HORIZONS, SPAN, Curve, Factor, factor, fit
from scripts.reports.option_values import LENGTH, options_key
from scripts.reports.rows import Row

#: Outcomes without a claim, and so without an efficiency.
_WITHOUT = ("refused", "uneven", "reversible")


@dataclass(frozen=True)
class Efficiency:
    """The data efficiency of a row against its control at one horizon.

    curve: fitted to the control; None where its losses do not fall like one. factor: None where the
    row's loss is below all values of the curve.
    """

    row: Row
    control: Row
    curve: Curve | None
    factor: Factor | None

    def record(self) -> dict[str, Any]:
        """Return its line of results.jsonl."""
        return {
            "kind": "efficiency",
            "row": self.row.label,
            "control": self.control.label,
            "curve": dataclasses.asdict(self.curve) if self.curve else None,
            "factor": dataclasses.asdict(self.factor) if self.factor else None,
        }


def efficiencies(comparisons: Sequence[Comparison], rows: Sequence[Row]) -> Iterator[Efficiency]:
    """Yield the efficiency of every compared row, if it and its control have enough horizons."""
    families: dict[Hashable, list[Row]] = {}
    for row in rows:
        families.setdefault(_family(row), []).append(row)
    for found in comparisons:
        own, control = (families[_family(each)] for each in (found.row, found.against))
        if found.outcome in _WITHOUT or not (_enough(own) and _enough(control)):
            continue
        points = sorted(control, key=_tokens)
        seeds = set(found.row.seeds).intersection(*(each.seeds for each in points))
        if not seeds:
            continue
        tokens = [_tokens(each) for each in points]
        losses = [_losses(each, seeds) for each in points]
        horizon = _tokens(found.row)
        yield Efficiency(
            found.row,
            found.against,
            fit(tokens, [statistics.fmean(each) for each in losses]),
            factor(tokens, losses, _losses(found.row, seeds), horizon),
        )


def _family(row: Row) -> Hashable:
    """Return a key that is equal for rows that differ only in their length."""
    conditions = tuple(str(value) for value in row.conditions.values())
    return options_key(row.runs[0], besides=LENGTH), conditions


def _enough(family: Sequence[Row]) -> bool:
    tokens = {_tokens(row) for row in family}
    return len(tokens) == len(family) >= FEWEST_HORIZONS and max(tokens) >= SPAN * min(tokens)


def _tokens(row: Row) -> float:
    return statistics.fmean(row.results("tokens"))


def _losses(row: Row, seeds: set[int]) -> list[float]:
    return [row.loss_of(run) for run in row.runs if run.seed in seeds]
