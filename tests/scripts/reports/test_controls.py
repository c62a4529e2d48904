"""The controls of a pruned row: dense, magnitude, and a static mask for a sparse start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.reports.comparisons import AGAINST_DENSE, AGAINST_REFERENCE, AGAINST_STATIC, tables_of
from scripts.reports.controls import dense_control, reference_control, static_control
from scripts.reports.rows import Row, rows_of
from scripts.reports.runs import read_run
from tests.support.synthetic import write_run


def row(folder: Path, **changes: Any) -> Row:
    (found,) = rows_of([read_run(write_run(folder, 1.5, 1, **changes))])
    return found


def test_controls_differ_in_pruning_alone(tmp_path: Path) -> None:
    rigl, static = row(tmp_path / "a", method="rigl"), row(tmp_path / "b", method="static")
    state, dense = row(tmp_path / "c", method="state"), row(tmp_path / "d")
    magnitude = row(tmp_path / "e", method="magnitude")
    others = [
        row(tmp_path / "f", optimizer="lion"),
        row(tmp_path / "g", method="static", optimizer="lion"),
        row(tmp_path / "h", method="static", sparsity=0.9),
        row(tmp_path / "i", method="magnitude", sparsity=0.9),
    ]
    every = [*others, rigl, static, state, dense, magnitude]
    assert dense_control(rigl, every) is dense
    assert reference_control(rigl, every) is magnitude
    assert static_control(rigl, every) is static
    assert static_control(rigl, others) is None
    assert static_control(static, every) is None  # of itself
    assert static_control(state, every) is None  # it ramps: all of its weights train at first


@pytest.mark.slow
def test_a_sparse_start_is_held_against_the_static_mask(tmp_path: Path) -> None:
    for seed in range(1, 6):
        for name, loss, method in (
            ("dense", 1.4, "none"), ("set", 1.5, "set"), ("static", 1.6, "static"),
            ("magnitude", 1.45, "magnitude"), ("state", 1.46, "state"),
        ):  # fmt: skip
            final = loss + 0.02 * seed + 0.001 * ((3 * seed + len(name)) % 5)
            write_run(tmp_path / f"{name}{seed}", final, seed, method=method)
    table = tables_of(rows_of([read_run(path) for path in sorted(tmp_path.iterdir())]))[-1]
    asked = {(c.row.method, c.purpose): c.outcome for c in table.comparisons}
    assert asked["set", AGAINST_STATIC] == "better"
    assert asked["static", AGAINST_DENSE] == asked["static", AGAINST_REFERENCE] == "worse"
    assert {method for method, purpose in asked if purpose == AGAINST_STATIC} == {"set"}
