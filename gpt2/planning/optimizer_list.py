"""List the optimizers for --optimizer with the size of their state, and those unavailable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gpt2.checkpoint.optimizer_state import optimizer_bytes
from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.errors import UserError
from gpt2.config.library import LIBRARIES
from gpt2.config.options import Options
from gpt2.config.typed import PLUGIN_PACKAGES, QUALIFIED, ModelConfig
from gpt2.model.build import build_model
from gpt2.model.language_model import LanguageModel
from gpt2.optim.groups import parameter_groups
from gpt2.optim.libraries.compatibility import COMPATIBLE, REFUSED
from gpt2.optim.libraries.lookup import classes, find

#: The model on which state is measured: tensors of several shapes, half a million parameters.
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 128, "block_size": 64}
VOCABULARY = 512


@dataclass(frozen=True)
class Choice:
    """An available optimizer: its name, bytes of state per parameter, its weight decay."""

    name: str
    state_bytes: float
    decay: str


def show() -> None:
    """Print all available optimizers, and why the others are not."""
    print(f"{'--optimizer':<24} state, bytes per parameter   weight decay")
    for choice in choices():
        print(f"{choice.name:<24} {choice.state_bytes:>8.2f}{'':20} {choice.decay}", flush=True)
    print("module:Class is your own: PYTHONPATH=FOLDER, then --optimizer my_module:MyOptimizer")
    print("\nUnavailable:")
    for name, reason in absent():
        print(f"{name:<24} {reason}")


def choices() -> Iterator[Choice]:
    """Measure every available optimizer: built-in ones, then library by library."""
    model = sample_model()
    package = PLUGIN_PACKAGES["OPTIMIZER"]
    for name in Options().members("OPTIMIZER"):
        if name != QUALIFIED["OPTIMIZER"][0]:
            optim = default_options(name)
            groups = parameter_groups(model, optim.learning_rate, optim.weight_decay)
            optimizer = plugins.load(package, name).build(groups, optim.options)
            decay = f"default {optim.weight_decay:g}"
            yield Choice(name, state_bytes(model, optimizer), decay)
    for prefix in LIBRARIES:
        for short in sorted(COMPATIBLE[prefix]) if not problem(prefix) else []:
            found = find(f"{prefix}:{short}")
            optimizer = found.build(parameter_groups(model, 0.001, 0.0), {})
            yield Choice(found.name, state_bytes(model, optimizer), found.entry.decay)


def absent() -> Iterator[tuple[str, str]]:
    """Yield unavailable optimizers, with the reason."""
    for prefix in LIBRARIES:
        if missing := problem(prefix):
            yield f"{prefix}:NAME", missing.removeprefix(f"{prefix}:NAME ")
            continue
        known = classes(prefix)
        for name, reason in sorted(REFUSED[prefix].items()):
            yield f"{prefix}:{name}", reason
        for name in sorted(known.keys() - COMPATIBLE[prefix].keys() - REFUSED[prefix].keys()):
            yield f"{prefix}:{name}", "not in the table of versions tested"


def problem(prefix: str) -> str | None:
    """Return why the library of `prefix` cannot be used here; None where it can."""
    try:
        classes(prefix)
    except UserError as error:
        return str(error)
    return None


def default_options(name: str) -> Any:
    """Return the OptimConfig of a built-in optimizer with all its defaults."""
    options = Options()
    options.give("OPTIMIZER", name, "--optimizer")
    return bind(options).optim


def sample_model() -> LanguageModel:
    """Build the model on which state is measured."""
    config = ModelConfig(
        model="custom",
        dropout=0.0,
        bias=True,
        flash_attention=True,
        activation_checkpointing="none",
        residual_precision=None,
        loss="full",
        loss_chunk_mib=None,
        init_from=None,
        keep_sparsity=None,
        **SHAPE,
    )
    return build_model(config, VOCABULARY, torch.device("cpu"), 0)


def state_bytes(model: LanguageModel, optimizer: torch.optim.Optimizer) -> float:
    """Return the bytes of state per parameter after one step on random gradients."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = 0.01 * torch.randn_like(parameter)
    optimizer.step()
    return optimizer_bytes(optimizer) / model.parameter_count()
