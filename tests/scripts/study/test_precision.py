"""One precision for all cells of a matrix on a CPU, measured before the first and kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from scripts.study import precision
from scripts.study.cells import Cell, Matrix
from scripts.study.folder import MatrixFolder
from scripts.study.precision import pin_precision

WIDE = "--model custom --n-layer 1 --n-head 2 --n-embd 256"
ANSWER = "auto takes bf16 on this CPU: a test says so"


class Record:
    """The part of matrix.json that counts."""

    def __init__(self, cells: list[Cell]) -> None:
        self.cells = cells


def cell(name: str, line: str = f"{WIDE} --device cpu") -> Cell:
    flags = tuple(line.split())
    config = bind(parse("train.py", "", flags, TrainActions)[0])
    return Cell(name=name, axes={}, seed=1, flags=flags, tuning=False, config=config)


def pinned(
    cells: list[Cell],
    folder: Path,
    answer: str = ANSWER,
    code: int = 0,
    measure: bool | None = True,
) -> tuple[list[str | None], list[str]]:
    """What the cells' flags say of the precision, and what is said."""
    matrix, said = Matrix(None, cells), list[str]()  # type: ignore[arg-type]
    command = [sys.executable, "-c", f"print({answer!r}); raise SystemExit({code})"]
    pin_precision(matrix, MatrixFolder(folder), command, Path(), said.append, measure)
    for one in matrix.cells:
        given = precision._given(one.flags)
        assert given is None or given == one.config.optim.precision
    return [precision._given(one.flags) for one in matrix.cells], said


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: True)


def test_all_cells_that_would_measure_get_one_answer(tmp_path: Path) -> None:
    cells = [cell("a"), cell("b"), cell("narrow", f"{WIDE} --n-embd 64 --device cpu")]
    cells += [cell("own", f"{WIDE} --precision fp32"), cell("auto", WIDE)]
    found, said = pinned(cells, tmp_path)
    assert found == ["bf16", "bf16", None, "fp32", "bf16"]
    assert said == [f"precision of all cells: {ANSWER}"]


def test_a_plan_measures_nothing_and_a_gpu_decides_by_itself(tmp_path: Path) -> None:
    assert pinned([cell("a")], tmp_path, measure=False) == ([None], [])
    assert pinned([cell("a", WIDE)], tmp_path, "auto takes bf16 on this cuda") == ([None], [])
    found, said = pinned([cell("a")], tmp_path, code=2)
    assert found == [None]
    assert said[0].startswith("precision: cannot be measured")


def test_on_other_machines_cpus_take_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)  # here, which says nothing of there
    found, said = pinned([cell("a"), cell("b", WIDE)], tmp_path, measure=None)
    assert found == ["fp32", None]
    assert "give --precision bf16" in said[0]


def test_without_the_instructions_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert pinned([cell("a")], tmp_path) == ([None], [])


@pytest.mark.parametrize("measure", [True, False])
def test_a_matrix_that_was_begun_keeps_what_it_had(
    measure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "matrix.json").write_text("{}")
    (tmp_path / "cells" / "a").mkdir(parents=True)
    record = Record([cell("a", f"{WIDE} --device cpu --precision fp32"), cell("b")])
    monkeypatch.setattr(MatrixFolder, "matrix", lambda _: record)
    assert pinned([cell("a"), cell("b")], tmp_path, measure=measure) == (["fp32", "fp32"], [])
    # Begun before CPUs were measured: as it was, and the other cells in what auto was then.
    record.cells[0] = cell("a")
    run = tmp_path / "cells" / "a" / "run.json"
    run.write_text('{"device": "cpu", "precision": "fp32"}')
    assert pinned([cell("a"), cell("b")], tmp_path, measure=measure) == ([None, "fp32"], [])


def test_cells_of_a_gpu_are_not_given_what_a_cpu_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "matrix.json").write_text("{}")
    (tmp_path / "cells" / "a").mkdir(parents=True)
    (tmp_path / "cells" / "a" / "run.json").write_text('{"device": "cuda", "precision": "bf16"}')
    monkeypatch.setattr(MatrixFolder, "matrix", lambda _: Record([cell("a"), cell("b")]))
    assert pinned([cell("a"), cell("b")], tmp_path, measure=False) == ([None, None], [])
