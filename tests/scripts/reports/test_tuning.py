"""The learning rates that a report chooses, and the seeds it chooses them by."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from scripts.report import main
from scripts.reports.tuning import tune
from scripts.study.tuning import choose
from tests.support.reports import lines, runs_of, table
from tests.support.small_cells import cell_record
from tests.support.synthetic import write_run

pytestmark = pytest.mark.slow


def tuned(folder: Path, missing: str = "") -> None:
    """Write dense tuning runs of two optimizers at three rates, and reported runs at all."""
    best = {"adamw": "2e-3", "adamwspam": "4e-3"}
    for optimizer, chosen in best.items():
        for rate in ("1e-3", "2e-3", "4e-3"):
            options = {"LEARNING_RATE": rate}
            for seed in (11, 12):
                # The losses of the tuning seeds are the lowest of all: they must not be shown.
                loss = 1.0 + (rate != chosen) * 0.1 + seed / 1000
                name = f"tune-{optimizer}-{rate}-{seed}"
                if name != missing:
                    write_run(folder / name, loss, seed, optimizer, options=options)
        for seed in range(1, 6):
            name = f"{optimizer}-{seed}"
            write_run(folder / name, 1.5, seed, optimizer, options={"LEARNING_RATE": chosen})


def test_the_rate_is_chosen_on_seeds_that_are_not_reported(tmp_path: Path) -> None:
    tuned(tmp_path / "runs")
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    rows = lines(tmp_path / "out", "row")
    assert {row["row"]: row["seeds"] for row in rows} == {
        "adamw dense": [1, 2, 3, 4, 5],
        "adamwspam dense": [1, 2, 3, 4, 5],
    }
    assert all(row["val_loss"]["mean"] == 1.5 for row in rows)
    roles = [line["role"] for line in table(tmp_path / "out")]
    assert (roles.count("reported"), roles.count("tuning")) == (10, 12)
    text = (tmp_path / "out" / "report.md").read_text()
    for shown in ("1.0110", "1.1120", "chosen", "tuning seeds (11, 12)"):
        assert shown in text.replace("\\", "")
    assert "same number of runs and tokens" in text
    assert "adamwspam: the best rate, 4e-3, is at the edge" in text.replace("\\", "")


def test_unequal_tuning_is_flagged(tmp_path: Path) -> None:
    tuned(tmp_path / "runs", missing="tune-adamw-1e-3-12")
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "budgets are not equal" in text
    assert "not every rate has every tuning seed" in text


def test_without_tuning_seeds_every_rate_is_a_row(tmp_path: Path) -> None:
    for rate in ("1e-3", "2e-3"):
        for seed in (1, 2):
            options = {"LEARNING_RATE": rate}
            write_run(tmp_path / "runs" / f"{rate}-{seed}", 1.5, seed, options=options)
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    labels = [row["row"] for row in lines(tmp_path / "out", "row")]
    assert labels == ["adamw dense (learning-rate 1e-3)", "adamw dense (learning-rate 2e-3)"]


def test_a_matrix_says_its_tuning_seeds(tmp_path: Path) -> None:
    tuned(tmp_path / "cells")
    spec = {"cells": [], "tuning": {"seeds": [1, 11, 12]}}
    (tmp_path / "matrix.json").write_text(json.dumps(spec))
    assert main(["--out", str(tmp_path)]) == 0
    assert all(row["seeds"] == [2, 3, 4, 5] for row in lines(tmp_path, "row"))


@pytest.mark.parametrize(
    ("losses", "rate"),
    [
        # Where every rate has a failed seed, as many seeds each: the lower mean of the others
        # must not win.
        ({"1e-3": [1.0, None], "2e-3": [None, 2.0]}, None),
        ({"1e-3": [1.0, None], "2e-3": [2.0, 2.0]}, "2e-3"),
        ({"4e-3": [2.0, 1.0], "2e-3": [1.0, 2.0]}, "2e-3"),
        ({"10e-4": [None, None], "2e-3": [3.0, 3.0]}, "2e-3"),
    ],
)
def test_the_matrix_and_the_report_choose_the_same_rate(
    losses: dict[str, list[float | None]], rate: str | None, tmp_path: Path
) -> None:
    cells, final = [], {}
    for text, values in losses.items():
        for seed, loss in enumerate(values, start=11):
            name = f"adamw-{text}-{seed}"
            write_run(tmp_path / name, loss, seed, options={"LEARNING_RATE": text})
            axes = {"optimizer": "adamw", "learning-rate": text}
            cells.append(cell_record(name=name, axes=axes, seed=seed, tuning=True))
            final[name] = math.inf if loss is None else loss
    (chosen,) = choose(cells, final)
    tuning = tune(runs_of(tmp_path), (11, 12))
    assert tuning is not None
    assert chosen.rate == rate
    assert [trial.rate for trial in tuning.trials if trial.chosen] == ([rate] if rate else [])
    assert any("none is chosen" in text for text in tuning.remarks) == (rate is None)


def test_without_a_rate_that_works_every_rate_is_a_row(tmp_path: Path) -> None:
    for rate in ("1e-3", "2e-3"):
        for seed, loss in ((11, None), (12, 1.0), (1, 1.5), (2, 1.5)):
            options = {"LEARNING_RATE": rate}
            write_run(tmp_path / "runs" / f"{rate}-{seed}", loss, seed, options=options)
    words = ["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]
    assert main([*words, "--tuning-seeds", "11", "12"]) == 0
    labels = [row["row"] for row in lines(tmp_path / "out", "row")]
    assert labels == ["adamw dense (learning-rate 1e-3)", "adamw dense (learning-rate 2e-3)"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "adamw: no rate has finished on every tuning seed; none is chosen." in text


def test_a_matrix_without_dense_cells_is_tuned_by_all_of_them(tmp_path: Path) -> None:
    for rate, loss in (("1e-3", 2.0), ("2e-3", 1.0)):
        for method in ("magnitude", "movement"):
            options = {"LEARNING_RATE": rate}
            name = f"{method}-{rate}"
            write_run(tmp_path / name, loss, 11, method=method, options=options)
    tuning = tune(runs_of(tmp_path), (11,))
    assert tuning is not None
    assert [(trial.rate, trial.mean, trial.chosen) for trial in tuning.trials] == [
        ("1e-3", 2.0, False), ("2e-3", 1.0, True),
    ]  # fmt: skip


def test_the_earliest_finished_run_of_a_tuning_seed_counts(tmp_path: Path) -> None:
    for number, (start, rate, loss) in enumerate(
        [("1", "1e-3", None), ("2", "1e-3", 1.0), ("3", "1e-3", 9.0), ("1", "2e-3", 2.0)]
    ):
        options = {"LEARNING_RATE": rate}
        write_run(tmp_path / str(number), loss, 11, start=start, options=options)
    tuning = tune(runs_of(tmp_path), (11,))
    assert tuning is not None
    assert [trial.losses for trial in tuning.trials] == [{11: 1.0}, {11: 2.0}]
    assert [trial.chosen for trial in tuning.trials] == [True, False]
