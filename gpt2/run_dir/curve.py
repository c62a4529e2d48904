"""The loss curve of a run in characters, for the end of a run on a terminal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Lines of the curve, and the fewest points that make one.
HEIGHT, FEWEST = 12, 5
#: First share of the steps, whose far higher losses do not set the scale.
_SKIPPED = 0.05
#: Bits of the dots of a braille character (Unicode 2800): 4 rows of 2.
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

Point = tuple[float, float]


def loss_curve(metrics: Iterable[Mapping[str, Any]], width: int, braille: bool) -> list[str]:
    """Return lines of at most `width` characters; empty with too few points or columns.

    metrics: lines of metrics.jsonl. The line is the training loss; each o is an evaluation.
    braille: draw 8 dots in a character, if the terminal can show them; else one dot.
    """
    lines = list(metrics)
    training, evaluations = _points(lines, "loss"), _points(lines, "val_loss")
    every = sorted(training + evaluations)
    columns = width - 10
    if len(every) < FEWEST or columns < 20:
        return []
    first, last = every[0][0], every[-1][0]
    scaled = [loss for step, loss in every if step >= first + _SKIPPED * (last - first)]
    low, high = min(scaled), max(scaled)
    if last <= first or high <= low:
        return []
    across, down = (2, 4) if braille else (1, 1)
    grid = [[0] * columns for _ in range(HEIGHT)]

    def place(step: float, loss: float, wide: int, tall: int) -> tuple[int, int]:
        """Return the column and the row of a point; negative rows are above the scale."""
        x = (step - first) / (last - first) * (wide - 1)
        y = (high - loss) / (high - low) * (tall - 1)
        return round(x), round(y)

    dots = [place(*point, columns * across, HEIGHT * down) for point in _means(training, columns)]
    for (x, y), (to_x, to_y) in itertools.pairwise(dots):
        count = max(1, abs(to_x - x), abs(to_y - y))
        for n in range(count + 1):  # a line of dots from each point to the next
            column, row = round(x + (to_x - x) * n / count), round(y + (to_y - y) * n / count)
            bit = _BITS[row % 4][column % 2] if braille else 1
            if row >= 0:
                grid[row // down][column // across] |= bit
    dot = (lambda bits: chr(0x2800 + bits)) if braille else (lambda _: ".")
    shown = [[dot(bits) if bits else " " for bits in line] for line in grid]
    for point in evaluations:
        column, row = place(*point, columns, HEIGHT)
        shown[max(0, row)][column] = "o"
    labels = {0: f"{high:.4f}", HEIGHT // 2: "loss", HEIGHT - 1: f"{low:.4f}"}
    drawn = [f"{labels.get(n, ''):>8}|{''.join(line)}".rstrip() for n, line in enumerate(shown)]
    ends = f"{first:,.0f}", f"step {last:,.0f}"
    axis = ends[0] + "validation o".center(columns - sum(map(len, ends))) + ends[1]
    return [*drawn, " " * 8 + "+" + "-" * columns, " " * 9 + axis]


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """Return (step, loss) of the lines that have this loss; NaN and Inf are left out."""
    found = [(line["step"], line.get(name)) for line in lines]
    return [(s, loss) for s, loss in found if isinstance(loss, int | float) and math.isfinite(loss)]


def _means(points: Sequence[Point], most: int) -> list[Point]:
    """Return about `most` points or fewer, each the mean of neighbours, to smooth the noise."""
    size = max(1, math.ceil(len(points) / most))
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    return [
        (sum(step for step, _ in group) / len(group), sum(loss for _, loss in group) / len(group))
        for group in groups
    ]
