"""The loss's softmax in one pass that overwrites the logits with their gradients (slopes).

Separate passes widen, normalise, exponentiate and round 16-bit logits: 34 bytes of traffic for each
logit. Reading twice and writing once takes 6.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from gpt2.config.errors import UserError

Slopes = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def slopes_by_parts(logits: Tensor, own: Tensor, counted: Tensor, vocabulary: int) -> Tensor:
    """Overwrite logits (n, W) with d loss / d logits; return the losses (n) in fp32.

    Only the first `vocabulary` columns are logits; the slopes of the others are zero. own (n) int64
    are the targets. Rows that are not `counted` (n) have loss 0 and slope 0. All sums are fp32.
    """
    wide = logits[:, :vocabulary].float()
    some = counted.unsqueeze(1)
    total = wide.logsumexp(1, keepdim=True)
    losses = (total - wide.gather(1, own.unsqueeze(1))).where(some, 0.0).squeeze(1)
    hits = torch.arange(vocabulary, device=logits.device) == own.unsqueeze(1)
    slopes = ((wide - total).exp() - hits.float()).where(some, 0.0)
    logits[:, :vocabulary] = slopes.to(logits.dtype)
    logits[:, vocabulary:] = 0.0
    return losses


@functools.cache
def _compiled() -> Slopes:
    compiled: Slopes = torch.compile(slopes_by_parts, fullgraph=True, dynamic=True)
    return compiled


@torch.library.custom_op("gpt2::slopes", mutates_args=("logits",))
def slopes(logits: Tensor, own: Tensor, counted: Tensor, vocabulary: int) -> Tensor:
    """Do the same as slopes_by_parts, compiled: without another tensor of the logits' size."""
    return _compiled()(logits, own, counted, vocabulary)


@slopes.register_fake
def _(logits: Tensor, own: Tensor, *_: object) -> Tensor:
    return logits.new_empty(len(own), dtype=torch.float32)


def check_compiler(device: torch.device, dtype: torch.dtype) -> None:
    """Compile the pass once for `device`.

    Raises UserError where torch cannot compile.
    """
    logits = torch.zeros((2, 64), device=device, dtype=dtype)
    own = torch.zeros(2, device=device, dtype=torch.int64)
    try:
        slopes(logits, own, own == 0, 60)
    except (RuntimeError, OSError, ImportError, AssertionError) as error:
        if isinstance(error, (torch.AcceleratorError, torch.OutOfMemoryError)):
            raise  # the device is lost or full; the compiler is not missing
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"--loss fused: torch cannot compile it here ({lines[0]}): take --loss chunked, or "
            "give torch a compiler (Triton for a GPU, g++ for a CPU)"
        ) from error
