"""The common part of a report's pictures: their form, colours, markers and names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripts.reports.comparisons import Table
from scripts.reports.metrics import Axis
from scripts.reports.pictures.svg import INK, SERIES
from scripts.reports.rows import DENSE, Row
from scripts.reports.words import percent

WIDTH = 9.2
_MARKERS = "os^DvPXp"
_DASHES = ("-", "--", ":")


@dataclass(frozen=True)
class Picture:
    """An SVG element, its heading, its caption, and its sparsity.

    views: the same over other axes, if it can be switched: (key, word, SVG), this one first.
    """

    heading: str
    caption: str
    svg: str
    asked: float | None = None
    views: tuple[tuple[str, str, str], ...] = ()


def over_axes(
    heading: str,
    caption: str,
    axes: Sequence[Axis],
    draw: Callable[[Axis], str],
    asked: float | None = None,
) -> Picture:
    """Return a picture that `draw` makes for each of the axes, to be switched on the page."""
    drawn = tuple((axis.key, axis.word, draw(axis)) for axis in axes)
    return Picture(heading, caption, drawn[0][2], asked, drawn if len(drawn) > 1 else ())


class Look:
    """The style of rows in every picture: a colour for each method, a marker per optimizer."""

    def __init__(self, rows: Sequence[Row]) -> None:
        named = dict.fromkeys(row.series for row in rows)
        self._methods = [name for name in named if name != "dense"]
        self._optimizers = sorted({row.optimizer for row in rows})

    def colour(self, row: Row) -> str:
        """Return the colour of a row."""
        if row.series == "dense":
            return INK
        return SERIES[self._methods.index(row.series) % len(SERIES)]

    def dash(self, row: Row) -> str:
        """Return the line style of a row: another one for each repetition of the colours."""
        if row.series == "dense":
            return "-"
        return _DASHES[self._methods.index(row.series) // len(SERIES) % len(_DASHES)]

    def marker(self, row: Row) -> str:
        """Return the marker of a row."""
        return _MARKERS[self._optimizers.index(row.optimizer) % len(_MARKERS)]


def where_text(table: Table) -> str:
    """Return a phrase with the sparsity of a table's rows."""
    return "without pruning" if table.asked == 0.0 else f"at {percent(table.asked)} sparsity"


def full_name(row: Row) -> str:
    """Return a row's name with its sparsity."""
    return row.label + ("" if row.method == DENSE else f" at {percent(row.asked)}")


def slug(share: float) -> str:
    """Return a sparsity as part of an id."""
    return f"{share:g}".replace(".", "-")


def mean_of(row: Row, name: str) -> float | None:
    """Return the mean over seeds of a number in the results; None without any."""
    found = row.over_seeds(name)
    return found.mean if found else None


def megabytes(size: float | None) -> float | None:
    """Return bytes in megabytes (10^6)."""
    return None if size is None else size / 1e6
