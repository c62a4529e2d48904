"""The average number of parameters that a run trains, known before it begins.

Jin et al. 2025, The journey matters: this average, not the number at the end, tells what a run that
prunes during training can learn.
"""

from __future__ import annotations

from gpt2.config.typed import Config, ModelConfig
from gpt2.planning.step_shape import parameter_count
from gpt2.prune.schedule import average_sparsity

#: Matrices of width x width in each block, by --prune-scope.
_SQUARES = {"blocks": 12, "attention": 4, "mlp": 8, "all": 12}


def parameters_at(model: ModelConfig, width: int, vocabulary: int) -> int:
    """Return the number of parameters of `model` at another width."""
    return parameter_count(model.n_layer, width, model.block_size, vocabulary, model.bias)


def average_parameters(config: Config, steps: int, vocabulary: int) -> float:
    """Return the mean number of unpruned parameters over the `steps` of a run."""
    model, prune = config.model, config.prune
    whole = parameters_at(model, model.n_embd, vocabulary)
    if prune is None:
        return whole
    prunable = model.n_layer * _SQUARES[prune.prune_scope] * model.n_embd**2
    if prune.prune_scope == "all":
        prunable += vocabulary * model.n_embd
    return whole - prunable * average_sparsity(prune, steps)
