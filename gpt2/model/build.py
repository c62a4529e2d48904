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


def palm_flops(config: ModelConfig, parameters: int) -> float:
    """Return the FLOP that count as training on one token, for the utilisation of a device (MFU).

    6 N + 12 L d T (Chowdhery et al. 2022, PaLM, appendix B): nothing that is computed again counts,
    and attention counts in full, although causal attention needs half of it. N are all parameters
    but the positions, which take part in no product.
    """
    weights = parameters - config.block_size * config.n_embd
    return 6.0 * weights + 12.0 * config.n_layer * config.n_embd * config.block_size


def forward_cost(config: ModelConfig, weights: int, tokens: int) -> float:
    """Return the operations of a forward pass over `tokens` tokens.

    2 for each of the `weights` that take part in products, and those of causal attention.
    """
    return tokens * (2.0 * weights + 2.0 * config.n_layer * config.n_embd * config.block_size)
