"""A sparse row is compared with a small dense one of as many weights on average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.report import main
from scripts.reports.comparisons import AGAINST_SMALL, tables_of
from scripts.reports.rows import Row, rows_of
from scripts.reports.runs import read_run
from scripts.reports.small_dense import average_parameters, small_control
from scripts.reports.table_cells import results_grid
from tests.support.synthetic import write_run

SMALL = {"MODEL": "custom", "N_LAYER": "2", "N_HEAD": "4", "N_EMBD": "64"}


def row(folder: Path, **changes: Any) -> Row:
    (found,) = rows_of([read_run(write_run(folder, 1.5, 1, **changes))])
    return found


def test_the_average_is_over_the_steps(tmp_path: Path) -> None:
    """Sparsity rises in a straight line from 0 to 50 %: 25 % of 90 % of 1000 weights are gone."""
    found = average_parameters(row(tmp_path / "a", method="state"))
    assert found == pytest.approx(1000 * (1 - 0.25 * 0.9))
    assert average_parameters(row(tmp_path / "b")) is None


def test_what_is_sparse_from_the_start_is_so_in_every_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", 1.5, 1, method="rigl")
    text = (folder / "metrics.jsonl").read_text()
    for sparsity in ("0.005", "0.125", "0.25", "0.375"):
        text = text.replace(f'"sparsity": {sparsity}}}', '"sparsity": 0.5}')
    (folder / "metrics.jsonl").write_text(text)
    (found,) = rows_of([read_run(folder)])
    assert average_parameters(found) == pytest.approx(1000 * (1 - 0.5 * 0.9))


def test_only_a_dense_row_of_that_size_is_the_control(tmp_path: Path) -> None:
    sparse = row(tmp_path / "sparse", method="state")
    good = row(tmp_path / "good", options=SMALL, parameters=780)
    nearer = row(tmp_path / "nearer", options=SMALL | {"N_EMBD": "68"}, parameters=776)
    others = [
        row(tmp_path / "large", parameters=776),  # of the same size by its options
        row(tmp_path / "far", options=SMALL, parameters=900),
        row(tmp_path / "decay", options=SMALL | {"WEIGHT_DECAY": "0.3"}, parameters=775),
        row(tmp_path / "lion", optimizer="lion", options=SMALL, parameters=775),
        row(tmp_path / "pruned", method="magnitude", options=SMALL, parameters=775),
    ]
    assert small_control(sparse, others) is None
    assert small_control(sparse, [*others, good]) is good
    assert small_control(sparse, [good, *others, nearer]) is nearer
    assert small_control(good, [nearer]) is None


@pytest.mark.slow
def test_the_page_says_whether_it_beats_it(tmp_path: Path) -> None:
    for seed in range(1, 6):
        for name, loss, changes in (
            ("dense", 1.40, {}),
            ("state", 1.50, {"method": "state"}),
            ("random", 1.70, {"method": "random"}),
            ("small", 1.60, {"options": SMALL, "parameters": 775}),
        ):
            final = loss + 0.02 * seed + 0.001 * ((3 * seed + len(name)) % 5)
            write_run(tmp_path / "runs" / f"{name}{seed}", final, seed, **changes)
    runs = [read_run(path) for path in sorted((tmp_path / "runs").iterdir())]
    table = tables_of(rows_of(runs))[-1]
    assert [control.options["N_EMBD"] for control in table.controls] == ["768", "64"]
    found = table.comparisons
    outcomes = {c.row.method: c.outcome for c in found if c.purpose == AGAINST_SMALL}
    assert outcomes == {"random": "worse", "state": "better"}
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    start = "Against the small dense model of equal average parameters (adamw dense B): "
    (line,) = [line for line in text.splitlines() if line.startswith(f"- {start}")]
    assert "state is better by 0.1" in line
    assert "random is worse by 0.1" in line
    assert "- adamw dense B: " in text  # what the letter stands for
    assert "n-embd (" not in text  # the size is the point; the rate that follows it is said
    assert "learning-rate (6e-4 against 4e-3)" in text
    grid = results_grid(table)
    assert grid.titles[-1] == "beats the small dense model"
    assert {cells[0]: cells[-1] for cells in grid.lines} == {
        "adamw dense A": "-", "adamw dense B": "-", "adamw + random": "no", "adamw + state": "yes",
    }  # fmt: skip
