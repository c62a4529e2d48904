"""Speed of writing text: with the cache of keys and values, without it, and transformers' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from gpt2.model.generate import Sampling, stream
from scripts.benchmark.contestants import Ours, Side
from scripts.benchmark.measure import interleaved, spread


def measure(sides: Sequence[Side], tokens: int, repeats: int) -> dict[str, Any]:
    """Return the speed of writing one text of `tokens` tokens; the first side is ours.

    As sample.py does it: fp32, no dropout, one token drawn at a time after a prompt of one.
    """
    forms = _forms(sides)
    device = next(sides[0].model.parameters()).device
    for write in forms.values():
        write(tokens)  # once before anything counts
    times = interleaved(forms, tokens, repeats, device)
    return {
        "tokens": tokens,
        "forms": {
            name: {
                "ms_per_token": {**spread(values), "values": values},
                "tokens_per_second": 1000.0 / spread(values)["median"],
            }
            for name, values in times.items()
        },
    }


def _forms(sides: Sequence[Side]) -> dict[str, Callable[[int], None]]:
    """Return what writes so many tokens, by name."""
    ours = sides[0]
    assert isinstance(ours, Ours)
    forms: dict[str, Callable[[int], None]] = {
        "ours, cached": partial(_stream, ours, True),
        "ours, uncached": partial(_stream, ours, False),
    }
    for side in sides[1:]:
        if side.name == "transformers":
            forms["transformers, cached"] = partial(_generate, side)
    return forms


def _stream(ours: Ours, cached: bool, count: int) -> None:
    for _ in stream(ours.model, [0], count, Sampling(), cached=cached):
        pass


def _generate(peer: Side, count: int) -> None:
    model: Any = peer.model
    prompt = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    length = {"max_new_tokens": count, "min_new_tokens": count}
    training = model.training
    model.eval().generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        top_k=0,
        use_cache=True,
        pad_token_id=0,
        **length,
    )
    model.train(training)
