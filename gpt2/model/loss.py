"""Cross-entropy of the tied head, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Targets with this value count neither in the loss nor in its mean.
IGNORED = -100


def full_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats over the targets that are not IGNORED.

    hidden (N, d), weight (V, d), targets (N,) int64; the result is a 0-d fp32 tensor.
    """
    logits = F.linear(hidden, weight)
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED)


def chunked_loss(hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
    """Return the same as full_loss, computing `rows` rows of logits at a time.

    The gradients are computed along with the loss, chunk by chunk, so at most (rows, V) logits
    exist at once in either pass. The loss and the sums over chunks are fp32 in every precision.
    """
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, targets, rows)
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        device = hidden.device.type
        # Inside a Function autocast is off by hand: the casts below are the ones it would make.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        compute = dtype or hidden.dtype
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        with torch.autocast(device, enabled=False):
            head = weight.to(compute)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            grad_hidden = torch.empty_like(hidden) if needs_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
            for start in range(0, hidden.size(0), rows):
                x = hidden[start : start + rows].to(compute)
                y = targets[start : start + rows]
                logits = (x @ head.t()).float()  # (rows, V)
                log_probs = F.log_softmax(logits, dim=-1)
                total += F.nll_loss(log_probs, y, ignore_index=IGNORED, reduction="sum")
                if not (needs_hidden or needs_weight):
                    continue
                slope = _slope(log_probs, y).to(compute)  # divided later: fp16 can hold this
                if grad_hidden is not None:
                    grad_hidden[start : start + rows] = slope @ head
                if grad_weight is not None:
                    grad_weight += slope.t() @ x
            count = (targets != IGNORED).sum()
        ctx.save_for_backward(grad_hidden, grad_weight, count)
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, count = ctx.saved_tensors
        scale = grad / count
        if grad_hidden is not None:
            grad_hidden = grad_hidden * scale.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight * scale
        return grad_hidden, grad_weight, None, None


def _slope(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Return d(sum of losses)/d(logits) = softmax - one-hot, 0 where ignored; reuses log_probs."""
    slope = log_probs.exp_()
    slope[torch.arange(len(targets), device=targets.device), targets.clamp(min=0)] -= 1.0
    return slope.mul_((targets != IGNORED).unsqueeze(1))
