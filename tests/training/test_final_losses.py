"""The final losses against evaluations of whole splits, and what a stop or a kill does to them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2.config.errors import Exit
from gpt2.data.batches import validation_batches
from gpt2.data.meta import Meta
from gpt2.data.tokens import TokenFile
from gpt2.model.loss import IGNORED
from gpt2.training.evaluation import evaluate
from gpt2.training.final_losses import FinalLosses, final_losses
from tests.support import tiny

pytestmark = pytest.mark.slow

BLOCK = 8
META = Meta("text", {"name": "char", "vocab_size": 11}, {"address": "a test"}, {})
STEPS = ("--max-steps", "2")
CLOCK = ("seconds", "tokens_per_second", "peak_host_bytes")


class RunningSum(nn.Module):
    """Predicts from all tokens of a sequence so far, so that it matters where sequences begin."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.randn(11, 11, generator=torch.Generator().manual_seed(0))
        self.table = nn.Parameter(table.double())

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = self.table[ids].cumsum(dim=1).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)


def split(ids: list[int]) -> TokenFile:
    return TokenFile(Path("no file"), np.array(ids, dtype=np.uint16), len(ids), META)


def splits(val: int, test: int) -> dict[str, TokenFile]:
    ids = np.random.default_rng(val + test).integers(0, 11, val + test).tolist()
    return {"val": split(ids[:val]), "test": split(ids[val:]), "val+test": split(ids)}


@pytest.mark.parametrize("val", [2, 8, 9, 16, 17, 30, 65])
@pytest.mark.parametrize("test", [2, 23])
def test_equal_to_an_evaluation_of_each_whole_split(val: int, test: int) -> None:
    model, data = RunningSum(), splits(val, test)

    def loss_over(tokens: TokenFile, first: int = 0) -> float:
        batches = validation_batches(tokens, BLOCK, 3, "cpu", first)
        loss = evaluate(model, batches, IGNORED, nullcontext)
        assert loss is not None
        return loss

    found = final_losses(loss_over(data["val"]), data, BLOCK, loss_over)
    assert found is not None
    assert found.test == loss_over(data["test"])
    assert found.val_test == pytest.approx(loss_over(data["val+test"]), rel=1e-12)


def test_without_a_test_split_there_is_nothing_to_measure() -> None:
    data = {"val": splits(20, 5)["val"]}
    assert final_losses(1.0, data, BLOCK, lambda *_: pytest.fail("measured")) == FinalLosses()


@pytest.mark.parametrize("stopped", [0, 1, 2])
def test_a_stop_leaves_off(stopped: int) -> None:
    calls = iter(range(3))
    found = final_losses(
        1.0, splits(20, 5), BLOCK, lambda *_: None if next(calls) == stopped else 1.0
    )
    assert found is None


def summary(run: Path) -> dict[str, Any]:
    found = json.loads((run / "summary.json").read_text())
    return {name: value for name, value in found.items() if name not in CLOCK}


@pytest.mark.parametrize(("action", "code"), [("kill", -9), ("term", Exit.PREEMPTED)])
def test_ended_while_the_test_split_is_measured_it_resumes_to_the_same(
    action: str, code: int, tmp_path: Path
) -> None:
    data = tiny.make_data(tmp_path / "data")
    assert tiny.train(data, tmp_path / "whole", *STEPS) == 0
    run = tmp_path / "run"
    ended = tiny.train_process(data, run, *STEPS, fault=f"evaluation.test:{action}")
    assert ended.returncode == code, ended.stderr
    assert not (run / "summary.json").exists()
    assert tiny.train(data, run, *STEPS) == 0
    assert summary(run) == summary(tmp_path / "whole")
    assert tiny.metrics(run) == tiny.metrics(tmp_path / "whole")
