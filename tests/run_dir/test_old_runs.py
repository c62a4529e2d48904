"""Runs that version 1 began are resumed, and end as they would have there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpt2 import evaluate, prepare_data
from gpt2.config.errors import Exit, UserError
from gpt2.train import main
from tests.support import tiny

OLD = Path(__file__).with_name("version_1")
SHAPE = (
    "--dataset", "text", "--tokenizer", "char", "--model", "custom", "--n-layer", "1",
    "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--batch-size", "4", "--device", "cpu",
    "--num-threads", "1", "--sample-tokens", "0", "--eval-interval", "2", "--max-steps", "8",
    "--checkpoint-interval", "2", "--dropout", "0.1",
)  # fmt: skip
KINDS = {
    "dense": (),
    "pruned": (
        "--optimizer", "adamwspam", "--pruning-method", "state", "--target-sparsity", "0.5",
    ),
    "library": ("--optimizer", "po:lion"),
    "rigl": ("--optimizer", "adamw", "--pruning-method", "rigl", "--target-sparsity", "0.8"),
    "movement": (
        "--optimizer", "adamw", "--pruning-method", "movement", "--target-sparsity", "0.5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_run_goes_on_to_its_old_end(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("data", kind):
        shutil.copytree(OLD / name, tmp_path / name)
    run = tmp_path / kind
    where = ("--data-dir", str(tmp_path / "data"), "--run-dir", str(run))
    assert main([*SHAPE, *KINDS[kind], *where]) == Exit.OK
    finished = OLD / f"finished-{kind}"
    found = load_file(run / "checkpoints" / "step-00000008" / "model.safetensors")
    wanted = load_file(finished / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        # Equal to the bit on the processor that made them; others round in another order.
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
        assert (found[name] == 0.0).sum() == (tensor == 0.0).sum(), name
    summary = json.loads((run / "summary.json").read_text())
    before = json.loads((finished / "summary.json").read_text())
    assert summary.keys() >= before.keys()
    assert summary["val_loss"] == pytest.approx(before["val_loss"], abs=1e-4)
    assert summary["sparsity_reached"] == before["sparsity_reached"]
    lines = [(line["step"], "val_loss" in line) for line in tiny.metrics(run)]
    assert lines == [(line["step"], "val_loss" in line) for line in tiny.metrics(finished)]
    # Said once, since it is another version: the data order is the same, the bits need not be.
    assert "another version of this program" in capsys.readouterr().err


def test_old_data_have_no_test_split_and_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("data", "dense"):
        shutil.copytree(OLD / name, tmp_path / name)
    folder, run = tmp_path / "data" / "text", str(tmp_path / "dense")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    where = ("--data-dir", str(tmp_path / "data"))
    assert prepare_data.main(["--dataset", "text", "--tokenizer", "char", *where]) == Exit.OK
    assert capsys.readouterr().out.startswith(f"already prepared in {folder}: ")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    measure = ["--run", run, *where, "--device", "cpu"]
    assert evaluate.main(measure) == Exit.OK
    for split in ("test", "val+test"):
        with pytest.raises(UserError, match="train, val and no test") as error:
            evaluate.main([*measure, "--split", split])
        assert error.value.code == Exit.DATA
