"""results.csv and results.jsonl: every run, row and comparison, with every digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.report import main
from scripts.reports.text import COLUMNS, MEASURED
from tests.support.reports import FILES, lines, table
from tests.support.synthetic import write_matrix

pytestmark = pytest.mark.slow


def test_every_run_is_in_the_csv_as_its_summary_has_it(matrix: Path) -> None:
    found = table(matrix)
    assert len(found) == 40
    for line in found:
        summary = json.loads((matrix / "cells" / line["run"] / "summary.json").read_text())
        shown = {name: value for name, value in summary.items() if name in COLUMNS}
        assert len(shown) > 12
        assert {name: float(line[name]) for name in shown} == shown
        assert line["role"] == "reported"


def test_the_csv_without_what_was_measured_is_the_same_again(matrix: Path, tmp_path: Path) -> None:
    again = write_matrix(tmp_path / "elsewhere")
    for run in (again / "cells").iterdir():
        summary = json.loads((run / "summary.json").read_text())
        summary |= {"seconds": 77.7, "tokens_per_second": 1.5, "peak_host_bytes": 9}
        record = json.loads((run / "run.json").read_text())
        record |= {"start": "2027-01-01T00:00:00+00:00", "resumes": ["2027-01-01T00:00:01+00:00"]}
        (run / "summary.json").write_text(json.dumps(summary))
        (run / "run.json").write_text(json.dumps(record))
    assert main(["--out", str(again)]) == 0
    first, second = (
        [{k: v for k, v in line.items() if k not in MEASURED} for line in table(folder)]
        for folder in (matrix, again)
    )
    assert first == second
    assert table(matrix) != table(again)


def test_a_row_is_the_mean_of_its_seeds(matrix: Path) -> None:
    losses = [float(r["val_loss"]) for r in table(matrix) if r["row"] == "adamw + state"]
    (row,) = [r for r in lines(matrix, "row") if r["row"] == "adamw + state"]
    assert row["seeds"] == [1, 2, 3, 4, 5]
    assert row["val_loss"]["mean"] == pytest.approx(sum(losses) / 5)


def test_the_best_on_the_way_is_nowhere(matrix: Path) -> None:
    for name in FILES:
        assert "0.1234" not in (matrix / name).read_text()
