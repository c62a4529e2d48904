"""The lines of a metrics.jsonl as the report draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt2.files.json import mismatch, parse

_NUMBER = (int, float, type(None))


@dataclass(frozen=True, slots=True)
class Point:
    """One line of metrics.jsonl. A number is None where the line lacks it, or for NaN and Inf.

    seconds: of training, over all sessions. loss, grad_norm: of the step; val_loss: nats per token
    over the validation split. sparsity: of the prunable weights.
    """

    step: int
    tokens: float | None = None
    seconds: float | None = None
    loss: float | None = None
    val_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    sparsity: float | None = None


def points_of(text: str) -> tuple[tuple[Point, ...], int]:
    """Return the points of a metrics.jsonl, and the number of damaged lines."""
    found = []
    broken = 0
    for line in text.splitlines():
        try:
            entry = parse(line)
            wrong = mismatch(entry, {"step": int, "sparsity?": _NUMBER})
        except ValueError:
            wrong = "it is no JSON"
        if wrong:
            broken += 1
        else:
            found.append(_point(entry))
    return tuple(found), broken


def _point(entry: dict[str, Any]) -> Point:
    return Point(
        entry["step"],
        _number(entry, "tokens"),
        _number(entry, "elapsed"),
        _number(entry, "loss"),
        _number(entry, "val_loss"),
        _number(entry, "learning_rate"),
        _number(entry, "grad_norm"),
        _number(entry, "tokens_per_second"),
        _number(entry, "sparsity"),
    )


def _number(entry: dict[str, Any], name: str) -> float | None:
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass(frozen=True)
class Axis:
    """The horizontal axis of a curve: its key, its word on the switch, and its label."""

    key: str
    word: str
    label: str
    scale: float = 1.0

    def of(self, point: Point) -> float | None:
        """Return a point's position on the axis."""
        value = {"steps": point.step, "tokens": point.tokens, "time": point.seconds}[self.key]
        return None if value is None else value / self.scale


def axes_of(points: Sequence[Point]) -> list[Axis]:
    """Return the possible axes for curves of these points; steps always are one.

    Tokens and time need a number in every line; old runs lack them. The longest time determines its
    unit.
    """
    found = [Axis("steps", "steps", "step")]
    if points and all(point.tokens is not None for point in points):
        found.append(Axis("tokens", "tokens", "tokens"))
    seconds = [point.seconds for point in points if point.seconds is not None]
    if points and len(seconds) == len(points) and max(seconds) > 0.0:
        units = (("h", "hours", 3600.0), ("min", "minutes", 60.0), ("s", "seconds", 1.0))
        short, word, size = next(
            (unit for unit in units if max(seconds) >= 1.5 * unit[2]), units[-1]
        )
        found.append(Axis("time", word, f"training time ({short})", size))
    return found


def thinned(
    points: Sequence[tuple[float, float]], most: int = 1200
) -> Sequence[tuple[float, float]]:
    """Return about `most` points of a line, the lowest and highest of each stretch.

    So a spike stays visible in a run of a million steps.
    """
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most / 2))
    kept = []
    for begin in range(0, len(points), size):
        part = range(begin, min(begin + size, len(points)))
        ends = {min(part, key=lambda n: points[n][1]), max(part, key=lambda n: points[n][1])}
        kept += [points[n] for n in sorted({*ends, *([0] if begin == 0 else [])})]
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept
