"""Loss over a whole split, every token once, independent of any seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    ignored: int,
    autocast: Callable[[], AbstractContextManager[None]],
    stop: Callable[[], bool] = lambda: False,
    total: Callable[[Sequence[float]], Sequence[float]] = list,
) -> float | None:
    """Return the mean loss in nats over the targets that are not `ignored`.

    `total` sums numbers over the ranks that share the batches. Returns None when `stop` asked to
    end. A model in training mode is put back into it.
    """
    training = model.training
    model.eval()
    nats: Tensor | float = 0.0
    count: Tensor | int = 0
    try:
        with torch.no_grad():
            for inputs, targets in batches:
                if stop():
                    return None
                real = (targets != ignored).sum()
                with autocast():
                    loss = model(inputs, targets)
                # Summed on the device, and read once at the end. MPS has no double precision.
                nats = nats + (loss if loss.device.type == "mps" else loss.double()) * real
                count = count + real
    finally:
        model.train(training)
    summed, tokens = total([float(nats), float(count)])
    return summed / tokens


def perplexity(loss: float) -> float:
    """Return exp(loss) of a loss in nats; infinity where that overflows."""
    return math.exp(loss) if loss < 700.0 else math.inf


def bits_per_byte(loss: float, tokens: int, text_bytes: int) -> float:
    """Return the loss in bits per byte of text: comparable between tokenizers.

    `tokens` were predicted at `loss` nats each; their text has `text_bytes` bytes.
    """
    return loss * tokens / (math.log(2) * text_bytes)
