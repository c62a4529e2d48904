"""Text from a model, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.model.cache import Cache
from gpt2.model.language_model import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from its logits.

    temperature 0 takes the likeliest token, 1 samples as trained; top_k > 0 leaves the k likeliest;
    top_p < 1 leaves, of these, the fewest likeliest that together have that probability (nucleus
    sampling, Holtzman et al. 2019). `seed` fixes the draws.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return what to draw from for logits (N, V), not normalised; temperature is above 0."""
        logits = logits / self.temperature
        if 0 < self.top_k < logits.size(1):
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        chances = logits.softmax(dim=1)
        if self.top_p < 1.0:
            ordered, order = chances.sort(dim=1, descending=True, stable=True)
            before = ordered.cumsum(dim=1, dtype=torch.float64) - ordered
            kept = ordered.masked_fill(before >= self.top_p, 0.0)
            chances = torch.zeros_like(chances).scatter_(1, order, kept)
        return chances


@torch.no_grad()
def stream(
    model: LanguageModel,
    prompt: list[int],
    count: int,
    sampling: Sampling,
    samples: int = 1,
    cached: bool = True,
) -> Iterator[list[int]]:
    """Yield `count` times the next token of each of `samples` texts that go on from `prompt`.

    The model sees the last block_size tokens, and is in evaluation mode until the last is taken.
    The draws happen on the CPU, so a seed gives the same text on any device that computes the same
    logits; sample i is the one of seed + i alone. Without `cached` all is computed anew each time.
    """
    device = next(model.parameters()).device
    draws = [torch.Generator().manual_seed(sampling.seed + i) for i in range(samples)]
    training = model.training
    model.eval()
    try:
        ids = torch.tensor([prompt] * samples, device=device)  # (N, T)
        follow = _Follower(model, ids.size(1) + count, cached)
        for _ in range(count):
            logits = follow.logits(ids).float().cpu()  # (N, V)
            tokens = _choose(logits, sampling, draws)
            yield tokens
            ids = torch.cat([ids, torch.tensor(tokens, device=device).unsqueeze(1)], dim=1)
    finally:
        model.train(training)


def _choose(logits: Tensor, sampling: Sampling, draws: list[torch.Generator]) -> list[int]:
    if sampling.temperature == 0.0:
        return [int(token) for token in logits.argmax(dim=1)]
    rows = sampling.probabilities(logits)
    pairs = zip(rows, draws, strict=True)
    return [int(torch.multinomial(row, 1, generator=draw)) for row, draw in pairs]


class _Follower:
    """Logits of texts that grow, with a cache while they fit the block."""

    def __init__(self, model: LanguageModel, longest: int, cached: bool) -> None:
        self.model = model
        self.block = model.config.block_size
        layers, capacity = model.config.n_layer, min(longest, self.block)
        self.cache = Cache(layers, capacity) if cached else None

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits (N, V) of the token after `ids` (N, T)."""
        if self.cache is None or ids.size(1) > self.block:
            # In a window that slides each token gets another position, and so other keys.
            self.cache = None
            return self.model.logits(ids[:, -self.block :])
        return self.model.logits(ids[:, self.cache.length :], self.cache)
