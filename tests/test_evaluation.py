"""Loss over a whole split against a loop over its tokens."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2.data.batches import IGNORED, validation_batches
from gpt2.training.evaluation import bits_per_byte, evaluate, perplexity


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
