"""Tables to paste elsewhere: what CSV, Markdown and LaTeX make of numbers, names and signs."""

from __future__ import annotations

import base64
import csv
import io

from scripts.reports.table_cells import Grid
from scripts.reports.table_files import csv_text, downloads, latex_text, markdown_text

GRID = Grid(
    ("", "loss", "note"),
    (
        ("adamw_50 & 90 %", "\u22120.0123", "a\tb"),
        ("lion, wide", "12,345.5", "-"),
        ("none", "-", "1,2 ~ {x} \\ ^"),
    ),
)


def test_csv_is_read_back_as_numbers() -> None:
    rows = list(csv.reader(io.StringIO(csv_text(GRID))))
    assert rows[0] == ["row", "loss", "note"]
    assert [float(row[1]) for row in rows[1:3]] == [-0.0123, 12345.5]
    assert rows[3] == ["none", "", "1,2 ~ {x} \\ ^"]


def test_latex_is_a_tabular_of_as_many_columns() -> None:
    text = latex_text(GRID)
    assert "\\begin{tabular}{lrl}" in text
    lines = [line for line in text.splitlines() if line.endswith(" \\\\")]
    assert len(lines) == 4
    assert lines[1] == "adamw\\_50 \\& 90 \\% & $-$0.0123 & a b \\\\"
    assert "\\textasciitilde{} \\{x\\} \\textbackslash{} \\textasciicircum{}" in lines[3]
    for line in lines:
        assert line.count(" & ") == 2


def test_markdown_has_a_line_for_each() -> None:
    lines = markdown_text(GRID).splitlines()
    assert len(lines) == 5
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines)
    assert "adamw\\_50 \\& 90 %" in lines[2]


def test_a_page_carries_the_files() -> None:
    found = {file.name: file.address for file in downloads(GRID, "dense-results")}
    assert list(found) == ["dense-results.csv", "dense-results.md", "dense-results.tex"]
    kind, _, content = found["dense-results.csv"].partition(";charset=utf-8;base64,")
    assert kind == "data:text/csv"
    assert base64.b64decode(content).decode() == csv_text(GRID)
