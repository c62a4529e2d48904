"""What an optimizer and a pruning method hold in memory, found by running them.

Nothing is declared twice, and whatever can be chosen can be planned: the optimizer runs on fake
tensors of the model's true shapes, pruning on a small model of true numbers.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt2.config.typed import Config
from gpt2.model.build import build_model, empty_model
from gpt2.model.language_model import LanguageModel
from gpt2.optim.precision import Precision
from gpt2.training.assembly import build_optimizer, build_pruner

#: The models that pruning is tried on. They are wide enough that what it looks at in pieces is more
#: than a piece (prune/threshold.py).
_WIDTHS, _LAYERS, _BLOCK, _VOCABULARY = (256, 512), 1, 32, 512
_EVENTS = 2


class Gauge(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make while it is active.

    `held` of them live now, `peak` lived at once. Of memory that was there before, nothing counts.
    """

    def __init__(self, *known: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in known:
            storage = tensor.untyped_storage()
            self._known[id(storage)] = weakref.ref(storage)

    def reset(self) -> None:
        """Count the peak from now on."""
        self.peak = self.held

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        known = self._known.get(key)
        if known is not None and known() is not None:
            return

        def gone(_: object) -> None:
            self.held -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.held += size
        self.peak = max(self.peak, self.held)


def of_optimizer(config: Config, vocab_size: int) -> tuple[int, int]:
    """Return the bytes of the optimizer's state, and what its step holds besides for a moment.

    An optimizer whose step asks for values cannot run on fake tensors: it runs on a small model,
    and what it holds is scaled by the number of parameters.
    """
    try:
        with FakeTensorMode():
            return _tried(config, empty_model(config.model, vocab_size))
    except DataDependentOutputException:
        small = build_model(_small(config, _WIDTHS[0]).model, _VOCABULARY, torch.device("cpu"), 0)
        with torch.device("meta"):
            whole = empty_model(config.model, vocab_size).parameter_count()
        scale = whole / small.parameter_count()
        state, step = _tried(config, small)
        return round(scale * state), round(scale * step)


def _tried(config: Config, model: LanguageModel) -> tuple[int, int]:
    """Make two steps; return what is held after the first, and what the second held besides."""
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    with Gauge(*parameters, *(p.grad for p in parameters if p.grad is not None)) as gauge:
        optimizer = build_optimizer(config, model)
        optimizer.step()
        gauge.reset()
        state = gauge.held
        optimizer.step()
    return state, gauge.peak - state


def of_pruning(config: Config, vocab_size: int) -> tuple[int, int]:
    """Return the bytes that pruning holds, and what an event holds besides for a moment.

    Held are so many bytes for each prunable weight; for a moment, so many and a constant for each
    weight of the largest matrix: two small models tell which.
    """
    if config.prune is None:
        return 0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (_, less, fewer), (held, more, many) = (_pruned(_small(config, w)) for w in _WIDTHS)
    slope = max(0.0, (more - less) / (max(many) - max(fewer)))
    with torch.device("meta"):
        model = empty_model(config.model, vocab_size)
    counts = _counts(config, model)
    event = more + slope * (max(counts) - max(many))
    return round(held * sum(counts) / sum(many)), round(event)


def _counts(config: Config, model: LanguageModel) -> list[int]:
    assert config.prune is not None
    return [weight.numel() for weight in model.prunable(config.prune.prune_scope).values()]


def _pruned(config: Config) -> tuple[int, int, list[int]]:
    """Prune a small model to its end.

    Return what is held then, what an event held besides, and the weights of its matrices.
    """
    model = build_model(config.model, _VOCABULARY, torch.device("cpu"), 0)
    optimizer = build_optimizer(config, model)
    ids = np.random.default_rng(0).integers(0, _VOCABULARY, 1 << 16).astype(np.uint16)
    precision = Precision("fp32", torch.device("cpu"))
    pruner = build_pruner(config, model, optimizer, ids, precision)
    largest = 0
    for step in range(_EVENTS):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        skip = torch.zeros((), dtype=torch.bool)
        with Gauge(*model.parameters()) as gauge:
            pruner.mask_gradients(step, step / _EVENTS)
            pruner.observe(skip)
        optimizer.step()
        optimizer.zero_grad()
        with gauge:
            gauge.reset()
            before = gauge.held
            pruner.apply(step + 1, (step + 1) / _EVENTS)
            largest = max(largest, gauge.peak - before)
    held = sum(t.numel() * t.element_size() for t in pruner.state().values())
    return held, largest, _counts(config, model)


def _small(config: Config, width: int) -> Config:
    """Return the same configuration of a model of `width`, which sees one sequence."""
    model = dataclasses.replace(
        config.model, n_layer=_LAYERS, n_head=2, n_embd=width, block_size=_BLOCK
    )
    prune = config.prune
    if prune is not None and prune.calibration_sequences is not None:
        prune = dataclasses.replace(prune, calibration_sequences=1)
    train = dataclasses.replace(config.train, batch_size=1)
    return dataclasses.replace(config, model=model, prune=prune, train=train)
