"""Small line charts as SVG in the page's colours; drawn in a millisecond, many per page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from scripts.watching.followed import Point

#: Sizes in pixels of a chart, of one on a card, and of the small one in a table; then the margins
#: for its numbers.
SIZE, CARD, SMALL = (480, 220), (380, 190), (120, 28)
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 8, 36
#: First share of the steps whose far higher values do not set the scale, and the fewest points of a
#: curve for this: they would hide the differences between later values.
_SKIPPED, _MANY = 0.05, 20
#: A curve of fewer points in a chart is its points, joined faintly.
FEW = 12


@dataclass(frozen=True)
class Line:
    """A curve. name: shown in its tip. colour: a variable of the page's style. dots: at points.

    Few points, in a chart, and a single point are always dots.
    """

    name: str
    points: Sequence[Point]
    colour: str = "series-0"
    dots: bool = False


def chart(
    title: str,
    lines: Sequence[Line],
    end: float | None = None,
    size: tuple[int, int] = SIZE,
    note: str = "",
) -> str:
    """Return a chart of all points, with axes over steps up to `end`; empty without points.

    note: a line below the chart.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return ""
    width, height = size
    values = [value for line in drawn for _, value in line.points]
    down = (height - _BOTTOM, _TOP)
    scale = _Scale.of(drawn, end, (_LEFT, width - _RIGHT), down, (min(values), max(values)))
    parts = []
    for value in ticks(scale.low, scale.high):
        y = scale.y(value)
        parts.append(f'<path class="rule" d="M{_LEFT} {y:.1f}H{width - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" class="end">{_short(value)}</text>')
    low = height - _BOTTOM + 16
    for value in ticks(scale.first, scale.last):
        parts.append(f'<text x="{scale.x(value):.1f}" y="{low}" class="mid">{_short(value)}</text>')
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{height - 5}" class="mid">step</text>')
    parts += [_path(line, scale, len(line.points) < FEW) for line in drawn]
    below = f'<figcaption class="note">{escape(note)}</figcaption>' if note else ""
    said = "; ".join(f"{line.name} {_short(line.points[-1][1])}" for line in drawn)
    return (
        f'<figure class="chart"><h3>{escape(title)}</h3>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}: '
        f'{escape(said)}">{"".join(parts)}</svg>{below}</figure>'
    )


def spark(lines: Sequence[Line], limits: tuple[float, float] | None) -> str:
    """Return a chart without axes for a table, whose rows share one scale, `limits`."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return ""
    width, height = SMALL
    scale = _Scale.of(drawn, None, (3, width - 3), (height - 3, 3), limits)
    inside = "".join(_path(line, scale) for line in drawn)
    return f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true">{inside}</svg>'


def limits_of(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Return the range of values of curves, without the first steps of long ones; or None."""
    values = [value for line in lines for value in _scaling(line)]
    return (min(values), max(values)) if values else None


@dataclass(frozen=True)
class _Scale:
    """Positions of values in the picture: steps from `first` to `last`, values `low` to `high`."""

    first: float
    last: float
    low: float
    high: float
    across: tuple[float, float]
    down: tuple[float, float]

    @classmethod
    def of(
        cls,
        lines: Sequence[Line],
        end: float | None,
        across: tuple[float, float],
        down: tuple[float, float],
        limits: tuple[float, float] | None = None,
    ) -> _Scale:
        """Return a scale for these lines."""
        steps = [step for line in lines for step, _ in line.points]
        low, high = limits or limits_of(lines) or (0.0, 1.0)
        margin = 0.04 * (high - low) or abs(low) * 0.01 or 1.0
        last = max(*steps, end or 0.0)
        return cls(min(0.0, *steps), last, low - margin, high + margin, across, down)

    def x(self, step: float) -> float:
        """Return the horizontal position of a step."""
        left, right = self.across
        return left + (right - left) * (step - self.first) / ((self.last - self.first) or 1.0)

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        bottom, top = self.down
        return bottom + (top - bottom) * (value - self.low) / (self.high - self.low)


def _scaling(line: Line) -> list[float]:
    """Return the values that set the scale."""
    steps = [step for step, _ in line.points]
    from_here = steps[0] + _SKIPPED * (steps[-1] - steps[0]) if len(steps) >= _MANY else 0.0
    return [value for step, value in line.points if step >= from_here]


def _path(line: Line, scale: _Scale, few: bool = False) -> str:
    places = [(scale.x(step), scale.y(value)) for step, value in line.points]
    marks = ""
    if line.dots or few or len(places) == 1:
        tips = zip(places, line.points, strict=True)
        marks = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" style="fill:var(--{line.colour})">'
            f"<title>{escape(line.name)}, step {step:,.0f}: {value:.4f}</title></circle>"
            for (x, y), (step, value) in tips
        )
    if len(places) == 1:
        return marks
    way = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    name = f"<title>{escape(line.name)}</title>"
    faint = ";stroke-width:.8;stroke-dasharray:1 3" if few and not line.dots else ""
    style = f"stroke:var(--{line.colour}){faint}"
    return f'<path class="line" style="{style}" d="{way}">{name}</path>{marks}'


def ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers between two others."""
    if not high > low:
        return []
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= rough)
    first = math.ceil(low / size)
    return [n * size for n in range(first, math.floor(high / size) + 1)]


def _short(value: float) -> str:
    """Return a number for an axis: 1.25, 12k, 3e-04."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return f"{value:.1e}".replace(".0e", "e")
    if abs(value) >= 1e4:
        return f"{value / 1e3:,.4g}k"
    return f"{value:.4g}"
