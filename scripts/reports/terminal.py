"""A table of the report for a terminal: aligned, its last column wrapped."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from scripts.reports.table_cells import Grid

#: Width of the first column; longer names are wrapped.
_FIRST = 34
#: Smallest width of the last column.
_LEAST = 24


def terminal_table(grid: Grid, width: int | None = None) -> Iterator[str]:
    """Yield the lines of a table `width` columns wide, if possible; default: the terminal's."""
    width = width or shutil.get_terminal_size((100, 24)).columns
    table = [grid.titles, *grid.lines]
    widths = [max(len(line[n]) for line in table) for n in range(len(grid.titles))]
    widths[0] = min(widths[0], _FIRST)
    widths[-1] = max(_LEAST, width - sum(widths[:-1]) - 2 * (len(widths) - 1))
    for line in table:
        first = textwrap.wrap(line[0], widths[0]) or [""]
        last = textwrap.wrap(line[-1], widths[-1]) or [""]
        for number in range(max(len(first), len(last))):
            cells = [first[number] if number < len(first) else ""]
            cells += line[1:-1] if number == 0 else [""] * (len(line) - 2)
            cells.append(last[number] if number < len(last) else "")
            padded = (cell.ljust(size) for cell, size in zip(cells, widths, strict=True))
            yield "  ".join(padded).rstrip()
