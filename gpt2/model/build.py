"""Build the model that a configuration names, and count the FLOP of a pass through it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpt2.config.typed import ModelConfig
from gpt2.model.form import OWN, Form
from gpt2.model.gpt import GPT
from gpt2.model.init import initialise
from gpt2.model.language_model import LanguageModel


def empty_model(config: ModelConfig, vocab_size: int, form: Form = OWN) -> LanguageModel:
    """Return the model on the current device, with weights not yet initialised."""
    return GPT(config, vocab_size, form)


def build_model(
    config: ModelConfig,
    vocab_size: int,
    device: torch.device,
    seed: int,
    fill: Callable[[LanguageModel], None] | None = None,
) -> LanguageModel:
    """Build the model on `device` with initial weights, or with those that `fill` copies in.

    It is created on the meta device and allocated on `device`: the host holds at most its largest
    tensor.
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
    """Return the FLOP of training on one token, by the convention for MFU (model FLOP utilisation).

    6 N + 12 L d T (Chowdhery et al. 2022, PaLM, appendix B). Recomputation does not count.
    Attention counts in full, although causal attention needs half of it. N is all parameters but
    the position embeddings, which are in no product.
    """
    weights = parameters - config.block_size * config.n_embd
    return 6.0 * weights + 12.0 * config.n_layer * config.n_embd * config.block_size


def forward_cost(config: ModelConfig, weights: int, tokens: int) -> float:
    """Return the FLOP of a forward pass over `tokens` tokens.

    2 for each of the `weights` that are in products, plus those of causal attention.
    """
    return tokens * (2.0 * weights + 2.0 * config.n_layer * config.n_embd * config.block_size)
