"""Speed-up: how soon a row reaches the final loss of its control, in steps, tokens and seconds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.reports.comparisons import AGAINST_ROW, Comparison
from scripts.reports.rows import Row, paired
from scripts.reports.runs import Run
from scripts.reports.statistics import interval

#: Outcomes without a claim, and so without a speed-up.
_WITHOUT = ("refused", "uneven", "reversible")
#: Evaluations count once the final sparsity is reached: before, the model is another.
_CLOSE = 1e-3


@dataclass(frozen=True)
class Speedup:
    """When the mean validation curve of a row first reaches the mean final loss of a control.

    steps, low, high: the step and its 95 % interval over seeds, linear between evaluations. All
        None where the curve never does; the interval also for one seed.
    tokens, seconds: the same point, in proportion to the whole run.
    factor: the control's steps divided by these.
    """

    row: Row
    control: Row
    loss: float
    steps: float | None = None
    low: float | None = None
    high: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    factor: float | None = None

    def record(self) -> dict[str, Any]:
        """Return its line of results.jsonl."""
        names = ("loss", "steps", "low", "high", "tokens", "seconds", "factor")
        return {
            "kind": "speedup",
            "row": self.row.label,
            "control": self.control.label,
            **{name: getattr(self, name) for name in names},
        }


def speedups(comparisons: Sequence[Comparison]) -> Iterator[Speedup]:
    """Yield the speed-up of every compared pair.

    Where neither row is a control, the one with the higher loss is the target of the other.
    """
    for found in comparisons:
        if found.outcome in _WITHOUT or found.difference is None:
            continue
        row, control = found.row, found.against
        if found.purpose == AGAINST_ROW and found.difference.mean > 0.0:
            row, control = control, row
        yield speedup(row, control)


def speedup(row: Row, control: Row) -> Speedup:
    """Return the speed-up over the seeds that both have.

    The interval is Student's t by the delta method: near the crossing a curve is a straight line,
    so a seed whose curve is higher relative to its control's end by x crosses x / slope later.
    """
    pairs = paired(row, control)
    target = statistics.fmean(theirs.loss for _, theirs in pairs)
    curves = [dict(_curve(ours)) for ours, _ in pairs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [statistics.fmean(curve[step] for curve in curves) for step in steps]
    place = next((n for n, mean in enumerate(means) if mean <= target), None)
    if place is None:
        return Speedup(row, control, target)
    before = max(place - 1, 0)
    rise = means[place] - means[before]  # negative, except at the first evaluation
    share = (target - means[before]) / rise if rise else 0.0
    length = steps[place] - steps[before]
    at = steps[before] + share * length
    low = high = None
    if rise:
        gaps = [
            curve[steps[before]] * (1.0 - share) + curve[steps[place]] * share - theirs.loss
            for curve, (_, theirs) in zip(curves, pairs, strict=True)
        ]
        found = interval([gap * length / -rise for gap in gaps])
        if found.low is not None and found.high is not None:
            low, high = max(0.0, at + found.low - found.mean), at + found.high - found.mean
    done = statistics.fmean(ours.measured("steps") or 0.0 for ours, _ in pairs)
    whole = statistics.fmean(theirs.measured("steps") or 0.0 for _, theirs in pairs)
    return Speedup(
        row,
        control,
        target,
        at,
        low,
        high,
        _in_proportion(pairs, "tokens", at / done),
        _in_proportion(pairs, "seconds", at / done),
        whole / at if at else None,
    )


def _curve(run: Run) -> Iterator[tuple[int, float]]:
    """Yield step and loss of every evaluation at the final sparsity; the last is the result."""
    final = run.measured("sparsity_reached") or 0.0
    end = int(run.measured("steps") or 0)
    for step, loss, sparsity in run.evaluations:
        if abs(sparsity - final) <= _CLOSE and step != end:
            yield step, loss
    yield end, run.loss


def _in_proportion(pairs: Sequence[tuple[Run, Run]], name: str, share: float) -> float | None:
    values = [value for ours, _ in pairs if (value := ours.measured(name)) is not None]
    return share * statistics.fmean(values) if len(values) == len(pairs) else None
