"""Storages that are followed: taken once, given back when the last tensor of them goes."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gpt2.planning.follow import Follow
from gpt2.planning.ledger import KINDS

LOGITS = KINDS.index("logits")


def test_views_share_memory_and_the_last_one_frees_it() -> None:
    with Follow() as follow:
        whole = torch.ones(8)
        part = whole[:2]
        assert follow.ledger.total == 32
        del whole
        assert follow.ledger.total == 32
        del part
    assert follow.ledger.total == 0
    assert follow.ledger.highest == 32


def test_what_was_there_counts_once_it_is_added() -> None:
    known, other = torch.ones(4), torch.ones(2)
    with Follow([known]) as follow:
        known.add_(1)
        assert follow.ledger.total == 0
        follow.add(other, LOGITS)
        assert follow.ledger.total == 8
        follow.add(other, 0)  # the same memory, held for something else
    assert follow.ledger.held[LOGITS] == 0
    assert follow.ledger.held[0] == 8


@pytest.mark.parametrize("fake", [False, True])
def test_gradients_are_summed_in_place_as_without_a_mode(fake: bool) -> None:
    with FakeTensorMode() if fake else torch.enable_grad():
        x, scales = torch.ones(1000, requires_grad=True), torch.ones(2, 1000)
        with Follow([x, scales]) as follow:
            middle = x * 2
            loss = (middle * scales[0]).sum() + (middle * scales[1]).sum()
            follow.ledger.begin("backward")
            before = follow.ledger.total
            follow.backward = True
            loss.backward()
            # The two gradients of `middle`, and no third one for their sum.
            assert 2 * 4000 <= follow.ledger.highest - before < 2 * 4000 + 100
    if not fake:
        assert x.grad is not None
        assert torch.equal(x.grad, torch.full((1000,), 4.0))


@pytest.mark.parametrize(("dtype", "copies"), [(torch.bfloat16, 2), (torch.float16, 1)])
def test_the_copy_inside_log_softmax_is_counted(dtype: torch.dtype, copies: int) -> None:
    logits, wide = torch.zeros(4, 8, dtype=dtype), torch.empty(4, 8)
    with Follow([logits, wide]) as follow:
        torch.log_softmax(logits, dim=-1, dtype=torch.float32, out=wide)
    assert follow.ledger.highest == (copies - 1) * 4 * 32
