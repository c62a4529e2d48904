"""The model that a configuration names, and what a pass through it costs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpt2.config.typed import ModelConfig
from gpt2.model.form import OWN, Form
from gpt2.model.gpt import GPT
from gpt2.model.init import initialise
from gpt2.model.language_model import LanguageModel


def empty_model(config: ModelConfig, vocab_size: int, form: Form = OWN) -> LanguageModel:
    """Return the model on the current device, its weights not yet initialised as ours are."""
    return GPT(config, vocab_size, form)


def build_model(
    config: ModelConfig,
    vocab_size: int,
    device: torch.device,
    seed: int,
    fill: Callable[[LanguageModel], None] | None = None,
) -> LanguageModel:
    """Build the model on `device` with its initial weights, or with those that `fill` copies in.

    It is laid out on the meta device and materialised on the target, so the host never holds more
    than the largest tensor of it.
    """
    with torch.device("meta"):
        model = empty_model(config, vocab_size)
    model.to_empty(device=device)
    if fill:
        fill(model)
    else:
        initialise(model, seed, config.n_layer)
    return model


def forward_cost(config: ModelConfig, weights: int, tokens: int) -> float:
    """Return the operations of a forward pass over `tokens` tokens.

    2 for each of the `weights` that take part in products, and those of causal attention.
    """
    return tokens * (2.0 * weights + 2.0 * config.n_layer * config.n_embd * config.block_size)
