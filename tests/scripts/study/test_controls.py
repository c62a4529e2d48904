"""Controls of pruning are added to a matrix: which, of what size, and to which matrices not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.typed import Config
from gpt2.model.build import empty_model
from gpt2.prune.events import Events
from gpt2.prune.schedule import average_sparsity, schedule_of
from scripts import matrix
from scripts.study.controls import TOLERANCE, lacking, small_model
from scripts.study.folder import MatrixFolder
from tests.support.small_cells import matrix_record

pytestmark = pytest.mark.slow

VOCABULARY = 65


def configured(flags: str) -> Config:
    return bind(parse("train.py", "", flags.split(), TrainActions)[0])


@pytest.mark.parametrize(
    ("asked", "added"),
    [
        ("none", ()),
        ("none state", ("magnitude", "random")),
        ("magnitude", ("none", "random")),
        ("none magnitude random wanda", ()),
        ("rigl random none", ("magnitude", "static")),
        ("static set none magnitude random", ()),
    ],
)
def test_what_a_list_of_methods_lacks(asked: str, added: tuple[str, ...]) -> None:
    assert lacking(asked.split()) == added


@pytest.mark.parametrize("method", ["magnitude", "wanda", "rigl", "static"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
@pytest.mark.parametrize("scope", ["blocks", "mlp"])
def test_the_small_model_has_the_average_parameters(
    method: str, sparsity: float, scope: str
) -> None:
    """Both models are built on the meta device and counted; the average is over every step."""
    steps = 400
    config = configured(
        "--model custom --n-layer 2 --n-head 2 --n-embd 96 --block-size 64 --no-bias --max-steps "
        f"{steps} --pruning-method {method} --target-sparsity {sparsity} --prune-scope {scope}"
    )
    assert config.prune is not None
    schedule = schedule_of(config.prune)
    found, held, total = Events(schedule), 0.0, 0.0
    for step in range(1, steps + 1):
        total += sparsity if method in ("rigl", "static") else held
        if found.is_due(step, step / steps):
            held = schedule.sparsity(step / steps)
            found.advance(step, step / steps)
    assert average_sparsity(config.prune, steps) == pytest.approx(total / steps, abs=4e-3)
    with torch.device("meta"):
        large = empty_model(config.model, VOCABULARY)
        prunable = sum(each.numel() for each in large.prunable(scope).values())
        average = large.parameter_count() - prunable * total / steps
        options = small_model(config, steps, VOCABULARY)
        assert options is not None
        width = options["N_EMBD"]
        narrow = configured(
            f"--model custom --n-layer 2 --n-head 2 --n-embd {width} --block-size 64 --no-bias"
        )
        small = empty_model(narrow.model, VOCABULARY).parameter_count()
    assert small == pytest.approx(average, rel=TOLERANCE)


def test_a_published_size_becomes_a_model_of_its_own_shape() -> None:
    config = configured("--model gpt2 --pruning-method magnitude --target-sparsity 0.5")
    options = small_model(config, 1000, 50257)
    assert options is not None
    assert (options["MODEL"], options["N_LAYER"], options["N_HEAD"]) == ("custom", "12", "12")
    assert int(options["N_EMBD"]) % 12 == 0


def test_no_small_model_where_widths_are_too_coarse() -> None:
    shape = "--model custom --n-layer 2 --n-head 8 --n-embd 16 --block-size 8"
    config = configured(f"{shape} --pruning-method rigl --target-sparsity 0.3 --max-steps 10")
    assert small_model(config, 10, VOCABULARY) is None
    assert small_model(configured(shape), 10, VOCABULARY) is None  # dense


LINES = (
    "DATASET_TEXT=y", "MODEL_CUSTOM=y", "N_LAYER=2", "N_HEAD=2", "N_EMBD=64", "BLOCK_SIZE=16",
    "MAX_STEPS=30", "DEVICE_CPU=y", 'MATRIX_OPTIMIZERS="adamw"', 'MATRIX_SPARSITIES="0.5 0.9"',
    'MATRIX_PRUNING_METHODS="none state"', 'MATRIX_SEEDS="1"',
)  # fmt: skip


def planned(
    folder: Path, capsys: pytest.CaptureFixture[str], *lines: str, more: tuple[str, ...] = ()
) -> str:
    meta = {"splits": {"train": {"tokens": 1000}}, "tokenizer": {"vocab_size": VOCABULARY}}
    (folder / "text").mkdir(exist_ok=True)
    (folder / "text" / "meta.json").write_text(json.dumps(meta))
    config = folder / "config"
    given = dict(line.split("=", 1) for line in (*LINES, *lines))
    config.write_text("".join(f"CONFIG_{name}={value}\n" for name, value in given.items()))
    argv = ["--config", str(config), "--out", str(folder / "out"), "--plan", "--no-probe", *more]
    assert matrix.main([*argv, "--", "--data-dir", str(folder)]) == 0
    return capsys.readouterr().out


def cells(plan: str) -> set[str]:
    return {line.split()[0] for line in plan.splitlines() if line.startswith("adamw-")}


def test_controls_are_planned_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path, capsys)
    assert "  added as controls: magnitude, random, small dense models" in plan
    pruned = {f"adamw-{m}-{s}" for m in ("state", "magnitude", "random") for s in ("0.5", "0.9")}
    found = cells(plan)
    assert pruned | {"adamw-none"} <= found
    narrow = found - pruned - {"adamw-none"}
    assert len(narrow) == 2  # one for each sparsity: the three methods share a schedule
    assert all(name.startswith("adamw-none-n-embd=") for name in narrow)


def test_without_controls_a_matrix_is_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(tmp_path, capsys, "MATRIX_CONTROLS=n")
    assert cells(plan) == {"adamw-none", "adamw-state-0.5", "adamw-state-0.9"}
    assert "added as controls" not in plan
    dense = planned(tmp_path, capsys, 'MATRIX_PRUNING_METHODS="none"')
    assert cells(dense) == {"adamw-none"}


def test_controls_take_the_axes_of_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = 'MATRIX_PRUNING_METHODS="none set magnitude random"'
    plan = planned(tmp_path, capsys, methods, 'MATRIX_AXES="sparsity-pattern=erk,layer"')
    assert "  added as controls: static, small dense models" in plan
    erk = {name for name in cells(plan) if name.startswith("adamw-static-0.5")}
    assert erk == {f"adamw-static-0.5-sparsity-pattern={p}" for p in ("erk", "layer")}


def test_a_matrix_that_began_without_stays_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of version 1 has no word of them in matrix.json."""
    folder = MatrixFolder(tmp_path / "out")
    folder.open()
    folder.write_matrix(matrix_record())
    text = (tmp_path / "out" / "matrix.json").read_text()
    (tmp_path / "out" / "matrix.json").write_text(text.replace(',\n "controls": false', ""))
    assert "controls" not in (tmp_path / "out" / "matrix.json").read_text()
    folder.close()
    assert cells(planned(tmp_path, capsys)) == {"adamw-none", "adamw-state-0.5", "adamw-state-0.9"}
