"""One rule for a learning rate: the matrix and the report name the same winner of the same runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from scripts.reports.runs import read_run
from scripts.reports.tuning import tune
from scripts.study.rates import choose_rate
from scripts.study.tuning import RATE, choose
from tests.support.small_cells import cell_record
from tests.support.synthetic import write_run

CASES = {
    "the lowest mean": ({"1e-3": (1.2, 1.2), "2e-3": (1.1, 1.2), "4e-3": (1.3, 1.0)}, "2e-3"),
    "of equal ones the smaller": ({"4e-3": (1.1, 1.2), "1e-3": (1.2, 1.1)}, "1e-3"),
    "a failed seed is out": ({"1e-3": (1.2, 1.2), "2e-3": (1.0, None)}, "1e-3"),
    "all failed on some seed": ({"1e-3": (1.2, None), "2e-3": (None, 1.0)}, None),
    "all failed on the same seed": ({"1e-3": (1.2, None), "2e-3": (1.0, None)}, None),
}


@pytest.mark.parametrize(("losses", "best"), CASES.values(), ids=list(CASES))
def test_matrix_and_report_choose_the_same(
    losses: dict[str, tuple[float | None, ...]], best: str | None, tmp_path: Path
) -> None:
    cells, found = [], {}
    for rate, of_seeds in losses.items():
        for seed, loss in zip((11, 12), of_seeds, strict=True):
            name = f"{rate}-{seed}"
            write_run(tmp_path / name, loss, seed, options={"LEARNING_RATE": rate})
            axes = {"optimizer": "adamw", RATE: rate}
            cells.append(cell_record(name=name, axes=axes, seed=seed, tuning=True))
            found[name] = math.inf if loss is None else loss
    write_run(tmp_path / "reported", 1.5, 1, options={"LEARNING_RATE": "1e-3"})
    (by_matrix,) = choose(cells, found)
    tuning = tune([read_run(path) for path in sorted(tmp_path.iterdir())], named=(11, 12))
    assert tuning is not None
    by_report = [trial.rate for trial in tuning.trials if trial.chosen]
    assert by_matrix.rate == best
    assert by_report == ([] if best is None else [best])


def test_the_rule_on_numbers() -> None:
    assert choose_rate({"1e-3": {1: math.inf}, "2e-3": {1: 2.0}}) == "2e-3"
    assert choose_rate({"1e-3": {1: math.inf}, "2e-3": {1: math.inf}}) is None
