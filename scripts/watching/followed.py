"""A watched run: its last numbers, and its curves, thinned to keep the page small."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path

from gpt2.run_dir.follow import Follower

#: Numbers of metrics.jsonl with a curve.
NAMES = ("loss", "val_loss", "learning_rate", "grad_norm", "tokens_per_second", "sparsity")
#: Half of the most points of a curve.
MOST = 150

Point = tuple[float, float]


class FollowedRun(Follower):
    """A run directory; each refresh reads only new lines.

    curves: (step, value) of each of NAMES; in a long run these are means of neighbours.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path
        self._curves: dict[str, _Curve] = {name: _Curve() for name in NAMES}
        self._interval: int | None = None

    @property
    def log_interval(self) -> int | None:
        """Return the steps from one logged step to the next, by the run's config; None if unknown.

        It is read once: a run keeps its config.
        """
        if self._interval is None:
            with suppress(OSError, ValueError):
                text = (self.path / "config").read_text(encoding="utf-8")
                found = re.search(r"^CONFIG_LOG_INTERVAL=(\d+)$", text, re.MULTILINE)
                self._interval = int(found[1]) if found else None
        return self._interval

    @property
    def curves(self) -> dict[str, list[Point]]:
        """Return the points of each curve so far."""
        return {name: curve.points for name, curve in self._curves.items()}

    def refresh(self) -> None:
        """Read new lines."""
        anew, lines = self.look()
        if anew:
            self._curves = {name: _Curve() for name in NAMES}
        for line in lines:
            for name, curve in self._curves.items():
                value = line.get(name)
                if isinstance(value, int | float) and math.isfinite(value):
                    curve.add(line["step"], float(value))


class _Curve:
    """Means over groups of neighbours; the group size doubles when there are too many."""

    def __init__(self) -> None:
        self._whole: list[Point] = []
        self._group: list[Point] = []
        self._size = 1

    @property
    def points(self) -> list[Point]:
        """Return the points to draw: all groups, also the incomplete last one."""
        return [*self._whole, *([_mean(self._group)] if self._group else [])]

    def add(self, step: float, value: float) -> None:
        """Add a point after all others."""
        self._group.append((step, value))
        if len(self._group) == self._size:
            self._whole.append(_mean(self._group))
            self._group = []
        if len(self._whole) == 2 * MOST:
            pairs = zip(self._whole[::2], self._whole[1::2], strict=True)
            self._whole = [_mean(pair) for pair in pairs]
            self._size *= 2


def _mean(group: list[Point] | tuple[Point, Point]) -> Point:
    return (
        sum(step for step, _ in group) / len(group),
        sum(value for _, value in group) / len(group),
    )
