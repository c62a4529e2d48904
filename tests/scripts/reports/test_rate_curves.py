"""Loss against learning rate without tuning seeds: which rows make a curve, and how wide it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.reports.rate_curves import rate_curves
from scripts.reports.rows import rows_of
from scripts.reports.runs import read_run
from scripts.reports.tuning_cells import widths_grid
from tests.support.synthetic import write_run


def test_rows_that_differ_in_their_rate_alone_make_a_curve(tmp_path: Path) -> None:
    losses = {"adamw": (1.60, 1.50, 1.519, 1.9), "lion": (1.4, 1.5, 1.6, 1.7)}
    rates = ("1e-4", "3e-4", "0.001", "3e-3")
    for optimizer, found in losses.items():
        for rate, loss in zip(rates, found, strict=True):
            run = tmp_path / f"{optimizer}-{rate}"
            write_run(run, loss, 1, optimizer, options={"LEARNING_RATE": rate})
    write_run(tmp_path / "sgd", 2.0, 1, "sgd")  # one rate is no curve
    curves = rate_curves(None, rows_of([read_run(path) for path in sorted(tmp_path.iterdir())]))
    adamw, lion = sorted(curves, key=lambda curve: curve.name)
    assert (adamw.name, lion.name) == ("adamw dense", "lion dense")
    assert adamw.rates == pytest.approx([1e-4, 3e-4, 1e-3, 3e-3])
    assert (adamw.best.rate, adamw.near, adamw.edge) == (3e-4, (3e-4, 1e-3), "")
    assert (lion.best.rate, lion.near, lion.edge) == (1e-4, (1e-4, 1e-4), "lowest")
    lines = {line[0]: line[1:] for line in widths_grid(curves).lines}
    assert lines["adamw dense"] == (
        "4, 0.0001 to 0.003", "0.0003", "1.5000", "0.0003 to 0.001", "3.3", "no",
    )  # fmt: skip
    assert lines["lion dense"][-3:] == ("no other", "1", "lowest")
