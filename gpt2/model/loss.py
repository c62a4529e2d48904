"""Cross-entropy of the tied head, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2.model.form import OWN, Form

#: Targets with this value count neither in the loss nor in its mean.
IGNORED = -100

#: Most rows whose gradients are summed in fp16, where more could pass 65504 at any loss scale.
_FP16_ROWS = 1024

#: fp32 numbers in a cache line of 64 bytes.
_ALIGNED = 16

#: Rows of the matrix whose logits are made, and passed over, while a core's cache holds them.
_TILE = 1024


def full_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats over the targets that are not IGNORED.

    hidden (N, d), weight (V, d), targets (N,) int64; the result is a 0-d fp32 tensor.
    """
    logits = F.linear(hidden, weight)
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED)


def chunked_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, form: Form = OWN
) -> Tensor:
    """Return the same as full_loss, computing `rows` rows of logits at a time.

    The gradients are computed along with the loss, chunk by chunk, so at most (rows, V) logits
    exist at once in either pass. The loss and the sums over chunks are fp32 in every precision.
    One backward pass is possible, also where the graph is retained.
    """
    if not torch.is_grad_enabled():
        # A Function does not look at this by itself, and would compute gradients for nothing.
        hidden, weight = hidden.detach(), weight.detach()
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, targets, rows, form)
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, form: Form
    ) -> Tensor:
        device = hidden.device.type
        # Inside a Function autocast is off by hand: the casts below are the ones it would make.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        compute = dtype or hidden.dtype
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        rows = chunk_rows(hidden.size(0), rows, compute == torch.float16)
        with torch.autocast(device, enabled=False):
            head = weight.to(compute)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            grad_hidden = torch.empty_like(hidden) if needs_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
            on_cpu = device == "cpu" and compute == torch.float32
            tall = on_cpu if form.tall is None else form.tall
            softmax = (_TallSoftmax if tall else _WideSoftmax)(head, rows)
            for start in range(0, hidden.size(0), rows)[: form.chunks]:
                x = hidden[start : start + rows].to(compute)
                y = targets[start : start + rows]
                counted = y != IGNORED
                own = y.where(counted, 0)  # an ignored row's target: any that exists
                total += softmax.losses(x, own).where(counted, 0.0).sum()
                if not (needs_hidden or needs_weight):
                    continue
                slope, divisor = softmax.slope(own)
                # On the narrow side of the products; by the count later: fp16 can hold this.
                share = (counted / divisor).to(compute).unsqueeze(1)
                if grad_hidden is not None:
                    torch.mul(slope @ head, share, out=grad_hidden[start : start + rows])
                if grad_weight is not None and compute == torch.float32:
                    grad_weight.addmm_(slope.t(), x * share)
                elif grad_weight is not None:
                    grad_weight += slope.t() @ (x * share)
            count = (targets != IGNORED).sum()
        ctx.save_for_backward(count)
        ctx.gradients = grad_hidden, grad_weight
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (count,) = ctx.saved_tensors
        if ctx.gradients is None:
            raise RuntimeError("the chunked loss keeps its gradients for one backward pass only")
        gradients, ctx.gradients = ctx.gradients, None
        # In place: another matrix of the size of the embedding would come on top of the peak.
        scale = grad / count
        hidden, weight = (g if g is None else g.mul_(scale.to(g.dtype)) for g in gradients)
        return hidden, weight, None, None, None


class _WideSoftmax:
    """Softmax over a few rows of logits (n, V), as products with the head (V, d) give them."""

    def __init__(self, head: Tensor, rows: int) -> None:
        self._head = head
        # On a CPU, asking for fresh memory in every chunk costs a tenth of the time.
        self._logits = head.new_empty(rows, len(head))
        self._wide = head.new_empty(rows, len(head), dtype=torch.float32)

    def losses(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return the loss (n) of each hidden state in x (n, d)."""
        count = len(targets)
        logits = torch.mm(x, self._head.t(), out=self._logits[:count])
        log_probs = torch.log_softmax(logits, dim=-1, dtype=torch.float32, out=self._wide[:count])
        return F.nll_loss(log_probs, targets, reduction="none")

    def slope(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return d losses / d logits (n, V) for the last `losses`, times the divisor (n).

        It lies in memory that the next call takes.
        """
        count = len(targets)
        slope = self._wide[:count].exp_()
        slope[torch.arange(count, device=targets.device), targets] -= 1.0
        ones = slope.new_ones(count)
        if slope.dtype == self._head.dtype:
            return slope, ones
        return self._logits[:count].copy_(slope), ones  # the logits are done with


class _TallSoftmax:
    """The same over logits held as columns (V, n), for fp32 on a CPU.

    The product that makes (V, n) is faster there by a half than the one that makes (n, V), since V
    is large and n and d are small. What passes over the logits does so while a tile of them is in
    the cache, and they stay exponents: the narrow side of the later products is divided instead.
    """

    def __init__(self, head: Tensor, rows: int) -> None:
        self._head, self._held = head, head.new_empty(len(head) * rows)
        self._total = head.new_empty(0)

    def losses(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return the same as that of _WideSoftmax."""
        logits, columns = self._logits(len(x)), x.t()
        tiles = logits.split(_TILE)
        peak = x.new_full((len(x),), -torch.inf)
        for tile, part in zip(tiles, self._head.split(_TILE), strict=True):
            peak = torch.maximum(peak, torch.mm(part, columns, out=tile).amax(dim=0))
        below = logits.gather(0, targets.unsqueeze(0))[0] - peak
        self._total = torch.zeros_like(peak)
        for tile in tiles:
            self._total += tile.sub_(peak).exp_().sum(dim=0)
        return self._total.log() - below

    def slope(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as that of _WideSoftmax, with another divisor."""
        slope = self._logits(len(targets))
        slope[targets, torch.arange(len(targets))] -= self._total
        return slope.t(), self._total

    def _logits(self, count: int) -> Tensor:
        return self._held[: len(self._head) * count].view(-1, count)


def rows_within(mib: int, vocabulary: int) -> int:
    """Return how many rows of fp32 logits fit into `mib` MiB, at least one."""
    return max(1, mib * 2**20 // (4 * vocabulary))


def chunk_rows(count: int, rows: int, half: bool) -> int:
    """Return how many of `count` rows chunked_loss takes at a time; `half`: in fp16."""
    return _even(count, min(rows, _FP16_ROWS) if half else rows)


def _even(count: int, most: int) -> int:
    """Return how many of `count` rows a chunk takes: at most `most`, all about equally many.

    A multiple of _ALIGNED where that may be: others cost the products on a CPU up to a third.
    """
    most -= most % _ALIGNED if most >= _ALIGNED else 0
    rows = -(-count // -(-count // most))
    return min(most, rows + -rows % _ALIGNED)
