"""A closure computes its loss with gradients, also where the optimizer has none."""

from __future__ import annotations

import torch

from gpt2.optim.closure import evaluated


def test_it_has_gradients_and_returns_the_loss() -> None:
    weight = torch.nn.Parameter(torch.tensor(3.0))

    def closure() -> torch.Tensor:
        loss = weight * weight
        loss.backward()
        return loss

    with torch.no_grad():
        assert evaluated(closure) == 9.0
    assert weight.grad == 6.0


def test_without_one_there_is_no_loss() -> None:
    assert evaluated(None) is None
