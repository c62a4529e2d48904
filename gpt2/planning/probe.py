"""Measure the memory of an optimizer and a pruning method by running them.

No sizes are declared, so every plug-in can be planned: the optimizer runs on fake tensors of the
model's true shapes, pruning on a small model with numbers.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gpt2.config.typed import Config
from gpt2.model.build import build_model, empty_model
from gpt2.model.language_model import LanguageModel
from gpt2.optim.precision import Precision
from gpt2.planning.follow import Follow
from gpt2.planning.ledger import KINDS
from gpt2.training.assembly import build_optimizer, build_pruner, may_be_zero

#: The models that pruning is tried on. They are so wide that what it processes in chunks has more
#: than one chunk (prune/topk.py).
_WIDTHS, _LAYERS, _BLOCK, _VOCABULARY = (256, 512), 1, 32, 512
_EVENTS = 2
_STATE = KINDS.index("optimizer state")


def of_optimizer(config: Config, vocab_size: int, device: str) -> tuple[int, int]:
    """Return the bytes of the optimizer's state, and of its step's temporary tensors.

    `device` is the device type it will run on: on CUDA, torch updates all parameters at once. An
    optimizer whose step reads values cannot run on fake tensors: it runs on a small model, and the
    result is scaled by the number of parameters.
    """
    with torch.device("meta"):  # nothing is drawn there: faster than fake tensors
        model = empty_model(config.model, vocab_size)
    try:
        with FakeTensorMode():
            for module in model.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, torch.nn.Parameter(torch.empty(parameter.shape)))
            return _tried(config, model, device)
    except DataDependentOutputException:
        small = build_model(_small(config, _WIDTHS[0]).model, _VOCABULARY, torch.device("cpu"), 0)
        scale = model.parameter_count() / small.parameter_count()
        state, step = _tried(config, small, device)
        return round(scale * state), round(scale * step)


def _tried(config: Config, model: LanguageModel, device: str) -> tuple[int, int]:
    """Run two steps; return the bytes held after the first, and the second's extra peak."""
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    known = [*parameters, *(p.grad for p in parameters if p.grad is not None)]
    with Follow(known, cpu_kernels=device != "cuda") as follow:
        optimizer = build_optimizer(config, model)
        if device == "cuda":
            _update_at_once(optimizer)
        optimizer.step()
        state = follow.ledger.total
        follow.ledger.begin("second step")
        optimizer.step()
        highest = follow.ledger.highest
    return state, highest - state


def _update_at_once(optimizer: torch.optim.Optimizer) -> None:
    """Use the kernels for CUDA tensors, which torch does not choose for fake ones.

    Where `foreach` is None, an optimizer's module decides, if it has the function for that. Our
    optimizers with a GPU implementation use it.
    """
    if hasattr(optimizer, "on_device"):
        optimizer.on_device = True
    own = (kind for kind in type(optimizer).__mro__ if kind is not torch.optim.Optimizer)
    modules = (sys.modules[kind.__module__] for kind in own)
    if any(hasattr(module, "_default_to_fused_or_foreach") for module in modules):
        for group in optimizer.param_groups:
            if group.get("foreach", False) is None and not group.get("fused"):
                group["foreach"] = True


def of_pruning(config: Config, vocab_size: int) -> tuple[int, int]:
    """Return the bytes that pruning holds, and the extra peak of an event.

    It holds a number of bytes for each prunable weight. The extra peak is a constant plus a number
    of bytes for each weight of the largest matrix, and another for each other weight. Three small
    models give these numbers.
    """
    if config.prune is None and not config.model.keep_sparsity:
        return 0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (few, less, fewer), (held, more, many) = (_pruned(_small(config, w)) for w in _WIDTHS)
        kept, deep, twice = _pruned(_small(config, _WIDTHS[0], 2 * _LAYERS))
    with torch.device("meta"):
        model = empty_model(config.model, vocab_size)
    counts = _counts(config, model)
    # The masks that the first event makes stay: they are not part of its extra peak.
    other = max(0.0, (deep - less - (kept - few)) / (sum(twice) - sum(fewer)))
    here, small, wide = (sum(some) - max(some) for some in (counts, fewer, many))
    slope = max(0.0, (more - less - other * (wide - small)) / (max(many) - max(fewer)))
    event = more + slope * (max(counts) - max(many)) + other * (here - wide)
    return round(held * sum(counts) / sum(many)), round(event)


def _counts(config: Config, model: LanguageModel) -> list[int]:
    return [weight.numel() for weight in may_be_zero(config, model).values()]


def _pruned(config: Config) -> tuple[int, int, list[int]]:
    """Prune a small model to the target.

    Returns the bytes held then, the extra peak of an event, and the weights of its matrices.
    """
    model = build_model(config.model, _VOCABULARY, torch.device("cpu"), 0)
    if config.model.keep_sparsity:
        for weight in may_be_zero(config, model).values():
            weight.data[0] = 0.0
    optimizer = build_optimizer(config, model)
    ids = np.random.default_rng(0).integers(0, _VOCABULARY, 1 << 16).astype(np.uint16)
    precision = Precision("fp32", torch.device("cpu"))
    pruner = build_pruner(config, model, optimizer, ids, precision)
    largest = 0
    for step in range(_EVENTS):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        skip = torch.zeros((), dtype=torch.bool)
        with Follow(model.parameters()) as follow:
            pruner.mask_gradients(step, step / _EVENTS)
            pruner.observe(skip)
        optimizer.step()
        optimizer.zero_grad()
        for state in optimizer.state.values():  # created outside the trace, not part of an event
            for tensor in state.values():
                if isinstance(tensor, torch.Tensor):
                    follow.add(tensor, _STATE)
        with follow:
            follow.ledger.begin("event")
            before = follow.ledger.total
            pruner.apply(step + 1, (step + 1) / _EVENTS)
            largest = max(largest, follow.ledger.highest - before)
    held = sum(t.numel() * t.element_size() for t in pruner.state().values())
    return held, largest, _counts(config, model)


def _small(config: Config, width: int, layers: int = _LAYERS) -> Config:
    """Return the configuration with a small model of `width`, and batches of one sequence."""
    model = dataclasses.replace(
        config.model, n_layer=layers, n_head=2, n_embd=width, block_size=_BLOCK
    )
    prune = config.prune
    if prune is not None and prune.calibration_sequences is not None:
        prune = dataclasses.replace(prune, calibration_sequences=1)
    train = dataclasses.replace(config.train, batch_size=1)
    return dataclasses.replace(config, model=model, prune=prune, train=train)
