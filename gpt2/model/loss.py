"""Cross-entropy of the tied head, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Targets with this value count neither in the loss nor in its mean.
IGNORED = -100

#: Most rows whose gradients are summed in fp16, where more could pass 65504 at any loss scale.
_FP16_ROWS = 1024


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
    if not torch.is_grad_enabled():
        # A Function does not look at this by itself, and would compute gradients for nothing.
        hidden, weight = hidden.detach(), weight.detach()
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
        rows = min(rows, hidden.size(0), _FP16_ROWS if compute == torch.float16 else rows)
        chunks = -(-hidden.size(0) // rows)
        rows = -(-hidden.size(0) // chunks)  # even ones, not a sliver at the end
        with torch.autocast(device, enabled=False):
            head = weight.to(compute)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            grad_hidden = torch.empty_like(hidden) if needs_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
            # On a CPU, asking for fresh memory in every chunk costs a tenth of the time.
            logits_held = hidden.new_empty(rows, len(head), dtype=compute)
            log_probs_held = hidden.new_empty(rows, len(head), dtype=torch.float32)
            for start in range(0, hidden.size(0), rows):
                x = hidden[start : start + rows].to(compute)
                y = targets[start : start + rows]
                logits = torch.mm(x, head.t(), out=logits_held[: len(y)])
                log_probs = log_probs_held[: len(y)]
                torch.log_softmax(logits, dim=-1, dtype=torch.float32, out=log_probs)
                total += F.nll_loss(log_probs, y, ignore_index=IGNORED, reduction="sum")
                if not (needs_hidden or needs_weight):
                    continue
                slope = _slope(log_probs, y).to(compute)  # divided later: fp16 can hold this
                counted = (y != IGNORED).unsqueeze(1)  # on the narrow side of the products
                if grad_hidden is not None:
                    grad_hidden[start : start + rows] = slope @ head * counted
                if grad_weight is not None and compute == torch.float32:
                    grad_weight.addmm_(slope.t(), x * counted)
                elif grad_weight is not None:
                    grad_weight += slope.t() @ (x * counted)
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
    """Return d(sum of losses)/d(logits) = softmax - one-hot; reuses the memory of log_probs."""
    slope = log_probs.exp_()
    slope[torch.arange(len(targets), device=targets.device), targets.clamp(min=0)] -= 1.0
    return slope
