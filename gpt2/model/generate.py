"""Sample text from a model, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.model.cache import Cache
from gpt2.model.language_model import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits.

    temperature: 0 takes the most likely token, 1 samples from the model's distribution.
    top_k: above 0, only the k most likely tokens can be drawn.
    top_p: below 1, only the smallest set of most likely tokens with this total probability can be
        drawn (nucleus sampling, Holtzman et al. 2019).
    seed: determines the draws.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return unnormalised probabilities for logits (N, V); requires a temperature above 0."""
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
    """Yield the next token of each of `samples` continuations of `prompt`, `count` times.

    The model sees the last block_size tokens. It is in evaluation mode until the last token is
    taken. Draws happen on the CPU: a seed gives the same text on every device with the same logits.
    Sample i is the text that seed + i gives alone. Without `cached`, every step computes the whole
    text again.
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
    """Computes next-token logits of growing texts, with a cache while they fit the block."""

    def __init__(self, model: LanguageModel, longest: int, cached: bool) -> None:
        self.model = model
        self.block = model.config.block_size
        layers, capacity = model.config.n_layer, min(longest, self.block)
        self.cache = Cache(layers, capacity) if cached else None

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits (N, V) of the token after `ids` (N, T)."""
        if self.cache is None or ids.size(1) > self.block:
            # When the window slides, every token gets another position, and so other keys.
            self.cache = None
            return self.model.logits(ids[:, -self.block :])
        return self.model.logits(ids[:, self.cache.length :], self.cache)
