"""A model with parameters of every role, a fixed problem for it, and optimizers over it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.typed import PLUGIN_PACKAGES
from gpt2.optim.groups import parameter_groups

PACKAGE = PLUGIN_PACKAGES["OPTIMIZER"]


def bound(name: str, **given: str) -> Any:
    """OptimConfig of optimizer `name`, with options by symbol. Raises UserError."""
    options = Options()
    options.give("MODEL", "custom", "--model")
    options.give("OPTIMIZER", name, "--optimizer")
    for symbol, value in given.items():
        options.give(symbol, value, flag_of(symbol))
    return bind(options).optim


def build(
    name: str,
    model: nn.Module,
    rate: float | None = None,
    decay: float = 0.1,
    **given: str,
) -> torch.optim.Optimizer:
    optim = bound(name, **given)
    groups = parameter_groups(model, optim.learning_rate if rate is None else rate, decay)
    optimizer = plugins.load(PACKAGE, name).build(groups, optim.options)
    assert isinstance(optimizer, torch.optim.Optimizer)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


class Small(nn.Module):
    """Parameters of every role, and a fixed problem for them."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(16, 8)
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 16)
        self.ids = torch.arange(16)
        self.to(dtype)

    def loss(self) -> Tensor:
        """Cross-entropy of telling every id's successor."""
        logits = self.linear(self.norm(self.embedding(self.ids)))
        return nn.functional.cross_entropy(logits, self.ids.roll(1))

    def copies(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}

    def give_gradients(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = drawn.to(parameter.dtype)


def run(optimizer: torch.optim.Optimizer, model: Small, steps: int) -> dict[str, Tensor]:
    """Take `steps` steps with drawn gradients; return the weights after them."""
    for seed in range(steps):
        model.give_gradients(seed)
        optimizer.step()
    return model.copies()
