"""Gradual pruning: every event prunes the weights with the lowest scores, for good."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gpt2.machine.shards import full_tensor, is_sharded, shard_like
from gpt2.prune.allocation import (
    GROUPED,
    choose,
    count_of,
    only_grouped,
    with_pruned_first,
)
from gpt2.prune.base import MaskedPruner, PruningContext
from gpt2.prune.topk import keys, smallest

_SCORE = "score."


class Score:
    """A method's score of each weight; the highest stay. Some scores accumulate over steps.

    state_keys: the entries of the optimizer state that it reads.
    slow: whether an event computes each score once and keeps them all, 4 bytes per weight.
    """

    state_keys: tuple[str, ...] = ()
    slow: bool = False

    def score(self, name: str, weight: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return a number for every weight of parameter `name`, of its shape, never NaN.

        `state` holds the full tensors of `state_keys`. Scores of pruned weights are ignored.
        """
        raise NotImplementedError

    def observe(self, name: str, weight: Tensor, gradient: Tensor, valid: Tensor) -> None:
        """Read a gradient; `valid` (bool, 0-d, on the device) is False in a skipped step."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the accumulated scores, by parameter name."""
        return {}

    def load(self, name: str, tensor: Tensor) -> None:
        """Restore the accumulated scores of one parameter."""
        raise NotImplementedError


class GradualPruner(MaskedPruner):
    """Prunes by a score, along a schedule, in one of the patterns of `allocation`."""

    def __init__(self, context: PruningContext, scoring: Score) -> None:
        super().__init__(context)
        self.scoring = scoring

    def ready(self) -> bool:
        """Return whether every parameter has the state to score; skipped steps make none."""
        held, needed = self.context.optimizer.state, set(self.scoring.state_keys)
        return all(needed <= held.get(w, {}).keys() for w in self.context.weights.values())

    def observe(self, skip: Tensor) -> None:
        """Pass the gradients to the score."""
        valid = ~skip
        for name, weight in self.context.weights.items():
            if weight.grad is not None:
                self.scoring.observe(name, weight.detach(), weight.grad, valid)

    def prune(self, sparsity: float) -> None:
        """Prune the lowest scores: of all weights, or of each matrix, row or group."""
        context = self.context
        if context.pattern == "global" or context.pattern in GROUPED:
            make = [self._makes(name, weight) for name, weight in context.weights.items()]
            chosen = smallest(make, count_of(sparsity, context.prunable))
            for name, pruned in zip(context.weights, chosen, strict=True):
                self.masks.set(name, pruned)
            return
        counts = self.shares(sparsity)
        for name, matrices in self.matrices.items():
            found = self._keys(name)
            masks = [choose(found[m.rows], context.pattern, counts[m.name]) for m in matrices]
            self.masks.set(name, torch.cat(masks))

    def state(self) -> dict[str, Tensor]:
        """Return masks, events and accumulated scores; scores are sharded where weights are."""
        held = {_SCORE + name: tensor for name, tensor in self.scoring.tensors().items()}
        return {**super().state(), **held}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the result of state()."""
        super().load(state)
        for key, tensor in state.items():
            if key.startswith(_SCORE):
                name = key.removeprefix(_SCORE)
                weight = self.context.weights[name]
                part = shard_like(tensor.to(weight.device), weight)
                self.scoring.load(name, part)

    def _makes(self, name: str, weight: Tensor) -> Callable[[], Tensor]:
        """Return what makes the keys of a parameter, as often as it is called."""
        make = functools.partial(self._keys, name)
        # Sharded ranks lack the memory to keep all keys.
        return functools.cache(make) if self.scoring.slow and not is_sharded(weight) else make

    def _keys(self, name: str) -> Tensor:
        weight = self.context.weights[name]
        held = self.context.optimizer.state.get(weight, {})
        state = {key: full_tensor(held[key]) for key in self.scoring.state_keys}
        scores = full_tensor(self.scoring.score(name, full_tensor(weight.detach()), state))
        found = with_pruned_first(keys(scores), self.masks.pruned(name))
        pattern = self.context.pattern
        return only_grouped(found, pattern) if pattern in GROUPED else found
