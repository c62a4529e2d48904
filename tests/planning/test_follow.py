"""Storages that are followed: taken once, given back when the last tensor of them goes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from gpt2.planning.follow import Follow
from gpt2.planning.ledger import KINDS

Operation = Callable[..., torch.Tensor]
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


@pytest.mark.parametrize(
    ("dtype", "cpu_kernels", "copies"),
    [
        (torch.bfloat16, True, 1),
        (torch.bfloat16, False, 1),
        (torch.float16, True, 1),
        (torch.float16, False, 0),
        (torch.float32, True, 0),
    ],
)
def test_the_copy_inside_log_softmax_is_counted(
    dtype: torch.dtype, cpu_kernels: bool, copies: int
) -> None:
    logits, wide = torch.zeros(4, 8, dtype=dtype), torch.empty(4, 8)
    with Follow([logits, wide], cpu_kernels=cpu_kernels) as follow:
        torch.log_softmax(logits, dim=-1, dtype=torch.float32, out=wide)
    assert follow.ledger.highest == copies * 4 * 32


def _made(operation: Operation, tensors: list[torch.Tensor]) -> int:
    """Return the most bytes that torch's allocator gave an operation at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = operation(*tensors)
    del kept
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = sorted(
        (e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    return max(itertools.accumulate((e.nbytes() for e in events), initial=0))


@pytest.mark.parametrize("format", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "operation",
    [
        lambda wide, half: wide + half,
        lambda wide, half: half * wide,
        lambda wide, half: wide.add_(half),
        lambda wide, half: half.add_(wide),
        lambda wide, half: wide.addcmul_(half, half),
        lambda wide, half: torch.mul(half, half, out=wide),
        lambda wide, half: wide.add_(wide),
        lambda wide, half: half.mul_(2.0),
        lambda wide, half: torch.where(half > 0, wide, half),
    ],
)
def test_copies_inside_sums_and_products_are_what_the_allocator_gives(
    operation: Operation, format: torch.dtype
) -> None:
    tensors = [torch.ones(10**5), torch.ones(10**5, dtype=format)]
    with Follow(tensors) as follow:
        operation(*tensors)
    # Scalars that torch makes on the way are a few bytes each.
    assert follow.ledger.highest == pytest.approx(_made(operation, tensors), abs=64)
    with Follow(tensors, cpu_kernels=False) as follow:
        made = operation(*tensors)
    known = any(made is tensor for tensor in tensors)
    assert follow.ledger.highest <= (0 if known else made.nbytes) + 10**5  # a mask of bytes
