"""Loss over a whole split against a loop over its tokens."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2.config.errors import Exit
from gpt2.data.batches import validation_batches
from gpt2.model.gpt import GPT
from gpt2.model.loss import IGNORED
from gpt2.training.evaluation import bits_per_byte, evaluate, perplexity
from tests.support import tiny


class Bigram(nn.Module):
    """Predicts from one token alone, so that a slow reference needs no windows."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary))

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        assert not self.training
        logits = self.table[ids].flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)


@pytest.mark.parametrize("tokens", [2, 9, 64, 65, 200])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_token_counts_once(tokens: int, batch: int) -> None:
    ids = np.random.default_rng(tokens).integers(0, 11, tokens).astype(np.uint16)
    model = Bigram(11)
    log_probs = model.table.log_softmax(dim=1).tolist()
    pairs = zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True)
    losses = [-log_probs[here][there] for here, there in pairs]
    loss = evaluate(model, validation_batches(ids, 8, batch, "cpu"), IGNORED, nullcontext)
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert model.training


def test_a_stop_leaves_off() -> None:
    ids = np.zeros(100, dtype=np.uint16)
    batches = validation_batches(ids, 8, 1, "cpu")
    assert evaluate(Bigram(2), batches, IGNORED, nullcontext, lambda: True) is None


def test_perplexity_and_bits() -> None:
    assert perplexity(math.log(20.0)) == pytest.approx(20.0)
    assert perplexity(1e9) == math.inf
    # 3 tokens of ln 4 nats (2 bits) each for 12 bytes of text: half a bit per byte.
    assert bits_per_byte(math.log(4.0), 3, 12) == pytest.approx(0.5)


@pytest.mark.slow
def test_its_own_batch_changes_no_result(tmp_path: Path) -> None:
    """Nor a resume: evaluations of one run may have different batches."""
    data = tiny.make_data(tmp_path / "data")
    more = ("--max-steps", "4", "--eval-interval", "1", "--checkpoint-interval", "1")
    assert tiny.train(data, tmp_path / "auto", *more) == Exit.OK
    run = tmp_path / "run"
    stopped = tiny.train_process(
        data, run, *more, "--eval-batch-size", "1", fault="checkpoint.rename:kill:3"
    )
    assert stopped.returncode == -9
    assert tiny.train(data, run, *more, "--eval-batch-size", "64") == Exit.OK
    pairs = zip(tiny.metrics(run), tiny.metrics(tmp_path / "auto"), strict=True)
    for line, expected in pairs:
        assert line == pytest.approx(expected, rel=1e-6)
    assert any("val_loss" in line for line in tiny.metrics(run))


@pytest.mark.parametrize(("given", "batch"), [((), 4), (("--eval-batch-size", "7"), 7)])
def test_the_batch_is_the_one_asked_for(
    given: tuple[str, ...], batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    compute = GPT.forward

    def watched(self: GPT, ids: Tensor, targets: Tensor) -> Tensor:
        seen.add((self.training, len(ids)))
        return compute(self, ids, targets)

    monkeypatch.setattr(GPT, "forward", watched)
    tiny.train(tiny.make_data(tmp_path / "data"), tmp_path / "run", "--max-steps", "1", *given)
    assert seen == {(True, 4), (False, batch)}
