"""Attention: both forms against each other and against three slow loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gpt2.model.attention import explicit_attention, flash_attention, kernel_taken

Form = Callable[[Tensor, Tensor, Tensor, float], Tensor]
FORMS = pytest.mark.parametrize("attend", [flash_attention, explicit_attention])


def random_qkv(batch: int, heads: int, length: int, width: int, scale: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shape = (3, batch, heads, length, width)
    return [part.clone() for part in scale * torch.randn(shape, generator=generator)]


def slow_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query, one key and one number at a time."""
    out = torch.zeros_like(v)
    batch, heads, length, width = q.shape
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                powers = []
                for s in range(t + 1):
                    dot = sum(float(q[b, h, t, i]) * float(k[b, h, s, i]) for i in range(width))
                    powers.append(math.exp(dot / math.sqrt(width)))
                for s in range(t + 1):
                    out[b, h, t] += powers[s] / sum(powers) * v[b, h, s]
    return out


@FORMS
@pytest.mark.parametrize("length", [1, 2, 7])
def test_against_slow_loops(attend: Form, length: int) -> None:
    q, k, v = random_qkv(2, 3, length, 4)
    torch.testing.assert_close(attend(q, k, v, 0.0), slow_attention(q, k, v), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("length", [1, 2, 17, 64, 129])
def test_both_forms_are_equal_forward_and_backward(length: int) -> None:
    results = []
    for attend in (flash_attention, explicit_attention):
        inputs = [part.requires_grad_() for part in random_qkv(2, 3, length, 16, 1.0)]
        out = attend(inputs[0], inputs[1], inputs[2], 0.0)
        (out * torch.linspace(-1.0, 1.0, out.numel()).view_as(out)).sum().backward()
        results.append([out, *(part.grad for part in inputs)])
    for flash, explicit in zip(*results, strict=True):
        torch.testing.assert_close(flash, explicit, atol=2e-6, rtol=1e-5)


@FORMS
def test_nothing_flows_from_the_future(attend: Form) -> None:
    q, k, v = (part.requires_grad_() for part in random_qkv(1, 2, 9, 4))
    attend(q, k, v, 0.0)[:, :, 4].sum().backward()
    assert k.grad is not None
    assert v.grad is not None
    for gradient in (k.grad, v.grad):
        assert torch.count_nonzero(gradient[:, :, 5:]) == 0
        assert torch.all(gradient[:, :, :5].abs().sum(dim=-1) > 0)


@FORMS
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_weights_at_its_rate_and_scales_the_rest(attend: Form, rate: float) -> None:
    torch.manual_seed(5)
    length = 64
    q, k, _ = random_qkv(4, 4, length, 8, 1.0)
    # Attending to unit vectors gives the weights themselves.
    units = torch.eye(length).expand(4, 4, length, length).contiguous()
    kept = attend(q, k, units, 0.0)
    dropped = attend(q, k, units, rate)
    past = torch.ones(length, length, dtype=torch.bool).tril().expand_as(kept)
    zero = dropped == 0.0
    assert torch.all(zero[~past])
    assert torch.all(kept[past] > 0.0)
    survives = past & ~zero
    torch.testing.assert_close(dropped[survives], kept[survives] / (1.0 - rate))
    count = int(past.sum())
    share = float(zero[past].sum()) / count
    assert abs(share - rate) < 5.0 * math.sqrt(rate * (1.0 - rate) / count)


@FORMS
def test_bf16_stays_bf16_and_near_the_exact_result(attend: Form) -> None:
    q, k, v = (part.bfloat16() for part in random_qkv(1, 2, 9, 4))
    out = attend(q, k, v, 0.0)
    assert out.dtype == torch.bfloat16
    exact = slow_attention(q.float(), k.float(), v.float())
    torch.testing.assert_close(out.float(), exact, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_kernel_has_a_name(dropout: float) -> None:
    q = torch.zeros(1, 2, 8, 16)
    assert kernel_taken(q, dropout) in {"math", "flash", "memory-efficient"}
    on_cpu = {0.0: "flash", 0.1: "math"}  # torch's CPU flash kernel has no dropout
    assert kernel_taken(q, dropout) == on_cpu[dropout]
