"""Whole runs that prune: resumed to the bit, in every precision, over ranks, and refused early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gpt2.checkpoint.store import load_last
from gpt2.config import plugins
from gpt2.config.errors import Exit, UserError
from gpt2.model.matrices import matrices_of
from tests.machine.test_ranks import train_ranks
from tests.run_dir.test_resume import assert_same, train_killed
from tests.support import tiny

pytestmark = pytest.mark.slow

METHODS = [name for name in plugins.names("gpt2.prune.methods") if name != "none"]
RUN = (
    "--max-steps",
    "12",
    "--checkpoint-interval",
    "1",
    "--eval-interval",
    "6",
    "--dropout",
    "0.1",
)
FEW = ("--calibration-sequences", "8")


def pruning(method: str, *more: str) -> tuple[str, ...]:
    few = FEW if method in ("wanda", "sparsegpt") else ()
    return ("--pruning-method", method, "--target-sparsity", "0.7", *few, *more)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = load_last(run / "checkpoints", print)
    assert found is not None
    return {name: tensor for name, tensor in found.model.items() if ".c_" in name}


def zeros(run: Path) -> int:
    return sum(int((t == 0.0).sum()) for name, t in weights(run).items() if name.endswith("weight"))


PRUNABLE = 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64)


@pytest.mark.parametrize("method", METHODS)
def test_a_pruned_run_resumes_to_the_same_bits(
    method: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*RUN, *pruning(method), "--gradient-accumulation", "2")
    assert tiny.train(data, tmp_path / "whole", *flags) == Exit.OK
    for step in (4, 9):
        run = tmp_path / f"killed-{step}"
        train_killed(monkeypatch, step, data, run, *flags)
        assert tiny.train(data, run, *flags) == Exit.OK
        assert_same(run, tmp_path / "whole")
    assert zeros(tmp_path / "whole") == round(0.7 * PRUNABLE)


def test_what_a_pruned_run_writes_down(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.train(data, tmp_path / "run", *RUN, *pruning("magnitude")) == Exit.OK
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["sparsity_asked"] == 0.7
    assert summary["sparsity_reached"] == round(0.7 * PRUNABLE) / PRUNABLE
    assert summary["sparsity_whole"] == round(0.7 * PRUNABLE) / summary["parameters"]
    lines = tiny.metrics(tmp_path / "run")
    steps = [line["sparsity"] for line in lines if "loss" in line]
    assert steps == sorted(steps)
    assert steps[0] == 0.0
    assert steps[-1] == summary["sparsity_reached"]
    evaluated = [line for line in lines if "val_loss" in line]
    assert evaluated[-1]["sparsity_layers"] == summary["sparsity_layers"]
    for name, tensor in weights(tmp_path / "run").items():
        if name.endswith("weight"):
            for matrix in matrices_of(name, tensor.shape):
                share = float((tensor[matrix.rows] == 0.0).double().mean())
                assert summary["sparsity_layers"][matrix.name] == pytest.approx(share)
    # The evaluation on the way, of a denser model, is not the best of the pruned ones.
    assert evaluated[0]["sparsity"] < 0.7
    assert summary["best"]["step"] == 12
    shown = capsys.readouterr().out
    assert "pruning magnitude: 70.0% of 6,144 weights to zero, pattern layer" in shown
    assert "sparsity 70.00% of the prunable weights (asked: 70.00%)" in shown


@pytest.mark.parametrize("more", [("--precision", "fp16"), ("--precision", "bf16")])
@pytest.mark.parametrize("pattern", ["global", "2:4"])
def test_zeros_stay_in_mixed_precision(
    pattern: str, more: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    flags = (*RUN, "--pruning-method", "state", "--sparsity-pattern", pattern, *more)
    assert tiny.train(data, tmp_path / "run", *flags, "--pruning-interval", "2") == Exit.OK
    assert zeros(tmp_path / "run") == PRUNABLE // 2
    if pattern == "2:4":
        for name, tensor in weights(tmp_path / "run").items():
            if name.endswith("weight"):
                assert torch.all((tensor.view(-1, 4) == 0.0).sum(dim=1) == 2)


def test_zeros_stay_in_a_compiled_run(data: Path, tmp_path: Path) -> None:
    flags = (*RUN, *pruning("movement"), "--compile", "--dropout", "0")
    assert tiny.train(data, tmp_path / "run", *flags) == Exit.OK
    assert zeros(tmp_path / "run") == round(0.7 * PRUNABLE)


def test_a_run_that_time_ends_reaches_its_target(data: Path, tmp_path: Path) -> None:
    flags = ("--max-time", "1", *pruning("magnitude", "--pruning-end", "1.0"))
    assert tiny.train(data, tmp_path / "run", *flags) == Exit.OK
    assert zeros(tmp_path / "run") == round(0.7 * PRUNABLE)


def test_pruning_after_the_last_step(data: Path, tmp_path: Path) -> None:
    flags = (*RUN, *pruning("wanda", "--pruning-start", "1.0"))
    assert tiny.train(data, tmp_path / "run", *flags) == Exit.OK
    dense = tiny.train(data, tmp_path / "dense", *RUN)
    assert dense == Exit.OK
    assert zeros(tmp_path / "run") == round(0.7 * PRUNABLE)
    before = weights(tmp_path / "dense")
    for name, tensor in weights(tmp_path / "run").items():
        live = tensor != 0.0
        assert torch.equal(tensor[live], before[name][live])  # nothing recovered


def test_accumulation_prunes_as_the_big_batch_does(data: Path, tmp_path: Path) -> None:
    more = (*RUN[:2], *pruning("movement"), "--optimizer", "sgd")
    big = (*more, "--batch-size", "8", "--gradient-accumulation", "1")
    small = (*more, "--batch-size", "2", "--gradient-accumulation", "4")
    for name, flags in (("big", big), ("small", small)):
        assert tiny.train(data, tmp_path / name, *flags) == Exit.OK
    pairs = [weights(tmp_path / name) for name in ("big", "small")]
    same = sum(int(((pairs[0][n] == 0) == (pairs[1][n] == 0)).sum()) for n in pairs[0])
    total = sum(tensor.numel() for tensor in pairs[0].values())
    assert same > 0.999 * total  # but where rounding decides


@pytest.mark.parametrize(
    ("method", "pattern"), [("magnitude", "lamp"), ("movement", "layer"), ("rigl", "erk")]
)
def test_ranks_prune_as_one_does(method: str, pattern: str, data: Path, tmp_path: Path) -> None:
    more = (*RUN[:4], *pruning(method, "--sparsity-pattern", pattern), "--optimizer", "sgd")
    assert tiny.train(data, tmp_path / "one", *more, "--gradient-accumulation", "4") == Exit.OK
    expected = weights(tmp_path / "one")
    for name, extra in (("two", ()), ("parts", ("--shard", "fsdp"))):
        run = tmp_path / name
        done = train_ranks(data, run, *more, "--gradient-accumulation", "2", *extra)
        assert done.returncode == 0, done.stderr
        assert zeros(run) == round(0.7 * PRUNABLE)
        for key, tensor in weights(run).items():
            torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-6)


def test_a_sharded_pruned_run_resumes_with_its_masks(data: Path, tmp_path: Path) -> None:
    more = ("--max-steps", "12", "--checkpoint-interval", "4", "--optimizer", "adamw")
    more += (*pruning("state"), "--shard", "fsdp")
    assert train_ranks(data, tmp_path / "whole", *more).returncode == 0
    assert train_ranks(data, tmp_path / "run", *more, fault="checkpoint.rename:kill:2").returncode
    assert train_ranks(data, tmp_path / "run", *more).returncode == 0
    assert tiny.checkpoint_bytes(tmp_path / "run") == tiny.checkpoint_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            (*pruning("magnitude"), "--pruning-interval", "7"),
            "--pruning-interval 7 is longer than the ramp, which takes 6 of 12 steps",
        ),
        (
            ("--pruning-method", "magnitude", "--sparsity-pattern", "2:4", "--n-embd", "18"),
            "--sparsity-pattern 2:4 needs rows of a multiple of 4 weights, and --n-embd is 18",
        ),
        (
            (*pruning("wanda"), "--calibration-sequences", "57"),
            "--calibration-sequences 57: the training text has 56 sequences of 8 tokens",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    flags: tuple[str, ...], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tiny.train(data, tmp_path / "run", "--max-steps", "12", *flags)
    assert caught.value.code == Exit.CONFIG
    assert not (tmp_path / "run").exists()


def test_one_shot_and_parts_do_not_go_together(data: Path, tmp_path: Path) -> None:
    done = train_ranks(data, tmp_path / "run", *RUN, *pruning("wanda"), "--shard", "fsdp")
    assert done.returncode != 0
    assert "--pruning-method wanda looks at whole layers, which --shard fsdp divides" in done.stderr
    assert not (tmp_path / "run").exists()
