"""Masks: packed to the bit; what they say is pruned stays zero, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gpt2.prune.masks import Masks, pack, unpack


def masks_of(weights: dict[str, nn.Parameter]) -> Masks:
    return Masks(weights)


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (3, 5), (16, 24), (129, 3)])
def test_packing_against_numpy(shape: tuple[int, ...]) -> None:
    torch.manual_seed(sum(shape))
    mask = torch.rand(shape) < 0.4
    packed = pack(mask)
    assert packed.tolist() == np.packbits(mask.numpy(), bitorder="little").tolist()
    assert torch.equal(unpack(packed, mask.shape), mask)


def test_an_eighth_of_a_byte_per_weight() -> None:
    masks = masks_of({"w": nn.Parameter(torch.ones(800, 10))})
    masks.set("w", torch.rand(800, 10) < 0.5)
    assert sum(t.numel() * t.element_size() for t in masks.tensors().values()) == 1000


def test_weights_gradients_and_state_of_pruned_weights_are_zero_and_others_untouched() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 5))
    other = nn.Parameter(torch.randn(6, 5))
    optimizer = torch.optim.AdamW([weight, other], amsgrad=True)
    for parameter in (weight, other):
        parameter.grad = torch.randn(6, 5)
    optimizer.step()
    masks = masks_of({"w": weight, "other": other})
    pruned = torch.rand(6, 5) < 0.5
    masks.set("w", pruned)
    assert weight.grad is not None
    weight.grad[pruned] = torch.nan  # not even what is no number gets through
    held = [weight, weight.grad, *optimizer.state[weight].values()]
    before = [tensor.detach().clone() for tensor in held]
    untouched = [t.detach().clone() for t in (other, other.grad, *optimizer.state[other].values())]
    masks.mask_gradients()
    masks.apply(optimizer)
    assert len(held) == 6
    for tensor, old in zip(held, before, strict=True):
        if tensor.shape == weight.shape:
            assert torch.all(tensor[pruned] == 0.0)
            assert torch.equal(tensor[~pruned], old[~pruned])
        else:
            assert torch.equal(tensor, old)  # the count of steps
    now = [other, other.grad, *optimizer.state[other].values()]
    assert all(torch.equal(a, b) for a, b in zip(now, untouched, strict=True))


def test_live_weights_that_are_zero_are_not_pruned() -> None:
    weight = nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))
    weight.grad = torch.ones(3)
    masks = masks_of({"w": weight})
    masks.set("w", torch.tensor([False, True, False]))
    masks.mask_gradients()
    assert weight.grad.tolist() == [1.0, 0.0, 1.0]
    assert masks.counts == {"w": 1}


def test_violations_are_counted_and_a_mask_of_another_model_is_refused() -> None:
    weight = nn.Parameter(torch.ones(4))
    masks = masks_of({"w": weight})
    masks.load({"w": pack(torch.tensor([True, True, False, False]))})
    assert masks.counts == {"w": 2}
    assert masks.violations("w") == 2
    with torch.no_grad():
        weight[:2] = 0.0
    assert masks.violations("w") == 0
    for wrong in ({"w": torch.zeros(3, dtype=torch.uint8)}, {"v": torch.zeros(1)}):
        with pytest.raises(ValueError, match="does not fit the model"):
            masks.load(wrong)


def test_a_refused_quantised_state_is_left_alone() -> None:
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight])
    optimizer.state[weight]["codes"] = torch.full((4,), 7, dtype=torch.uint8)
    masks = masks_of({"w": weight})
    masks.set("w", torch.tensor([True, False, False, False]))
    masks.apply(optimizer)
    assert optimizer.state[weight]["codes"].tolist() == [7, 7, 7, 7]
