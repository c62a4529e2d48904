"""Collect the inputs of linear layers while training text passes through the model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class _EnoughError(Exception):
    """Ends a forward pass early, when all inputs are collected."""


class Calibration:
    """Batches of training text, and a way to send them through a model.

    batches: token ids (B, T) each. forward: runs the model on one of them, without gradients,
    dropout or compilation.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Callable[[], Iterable[Tensor]],
        forward: Callable[[Tensor], object],
    ) -> None:
        self._model = model
        self._batches = batches
        self._forward = forward

    def run(self, takers: Mapping[str, Callable[[Tensor], None]]) -> None:
        """Pass the inputs (N, in) of linear layers to `takers`, by the names of their weights."""
        waiting: set[str] = set()
        handles = []
        for name, take in takers.items():
            layer = self._model.get_submodule(name.removesuffix(".weight"))

            def hook(
                _: nn.Module, inputs: tuple[Any, ...], name: str = name, take: Any = take
            ) -> None:
                take(inputs[0].detach().flatten(0, -2).float())
                waiting.discard(name)
                if not waiting:
                    raise _EnoughError

            handles.append(layer.register_forward_pre_hook(hook))
        try:
            for ids in self._batches():
                waiting.update(takers)
                try:
                    self._forward(ids)
                except _EnoughError:
                    continue
        finally:
            for handle in handles:
                handle.remove()


def by_block(names: Sequence[str]) -> list[list[str]]:
    """Group parameter names by their block (transformer.h.N), in order."""
    groups = itertools.groupby(names, key=lambda name: name.split(".")[:3])
    return [list(group) for _, group in groups]
