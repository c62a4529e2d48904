"""A table of the report in forms to paste elsewhere: CSV, Markdown and LaTeX."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpt2.config.text import markdown_table
from scripts.reports.table_cells import UNKNOWN, Grid
from scripts.reports.words import MINUS, PLUS_MINUS, SPACE

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    PLUS_MINUS: r"$\pm$",
    MINUS: "$-$",
    SPACE: "~",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
}


@dataclass(frozen=True)
class Download:
    """A file embedded in a page: its form, its name, and its content as a data address."""

    form: str
    name: str
    address: str


def downloads(grid: Grid, name: str) -> Iterator[Download]:
    """Yield a table as files called `name`, for links that need no network."""
    forms: tuple[tuple[str, str, str, Callable[[Grid], str]], ...] = (
        ("CSV", "csv", "text/csv", csv_text),
        ("Markdown", "md", "text/markdown", markdown_text),
        ("LaTeX", "tex", "text/x-tex", latex_text),
    )
    for form, suffix, kind, write in forms:
        content = base64.b64encode(write(grid).encode("utf-8", "backslashreplace")).decode()
        yield Download(form, f"{name}.{suffix}", f"data:{kind};charset=utf-8;base64,{content}")


def csv_text(grid: Grid) -> str:
    """Return a table as CSV, with 1,000 as 1000, and unknown numbers empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_title(title) for title in grid.titles)
    writer.writerows([_bare(cell) for cell in line] for line in grid.lines)
    return stream.getvalue()


def _bare(cell: str) -> str:
    text = cell.replace(MINUS, "-").replace(SPACE, " ")
    if text == UNKNOWN:
        return ""
    return text.replace(",", "") if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", text) else text


def _title(title: str) -> str:
    return title or "row"


def markdown_text(grid: Grid) -> str:
    """Return a Markdown table whose cells contain no markup."""
    return markdown_table([*map(plain, grid.titles)], ([*map(plain, line)] for line in grid.lines))


def plain(text: str) -> str:
    """Return text with every character special to Markdown or HTML escaped."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", line)


def latex_text(grid: Grid) -> str:
    """Return a table as a LaTeX tabular, for a document that uses booktabs."""
    columns = "l" + "".join("r" if _numeric(grid, n) else "l" for n in range(1, len(grid.titles)))
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        _latex_line(tuple(_title(title) for title in grid.titles)),
        "\\midrule",
        *map(_latex_line, grid.lines),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _numeric(grid: Grid, column: int) -> bool:
    cells = [line[column] for line in grid.lines if line[column] != UNKNOWN]
    return all(re.match(rf"[+{MINUS}-]?\d", cell) for cell in cells)


def _latex_line(cells: tuple[str, ...]) -> str:
    lines = (re.sub(r"[\r\n\t]+", " ", cell) for cell in cells)
    texts = ("".join(_LATEX.get(char, char) for char in line) for line in lines)
    return " & ".join(texts) + " \\\\"
