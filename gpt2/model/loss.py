"""Cross-entropy of the tied head, without holding all logits at once."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2.model.form import OWN, Form
from gpt2.model.softmax import TILE, softmax_of, tiles

#: Targets with this value are left out of the loss and of its mean.
IGNORED = -100

#: Most rows in one fp16 sum of gradients: a longer sum could exceed 65504 at any loss scale.
_FP16_ROWS = 1024

#: fp32 numbers in a cache line of 64 bytes.
_ALIGNED = 16

#: MiB of logits held at once when the device decides. On a GPU every chunk costs kernel launches
#: and a pass over the head's gradient.
_CHUNK_MIB = {"cuda": 512}
_CHUNK_MIB_FUSED = {"cuda": 1024}  # fused holds nothing else: less memory than chunked at 512
_CHUNK_MIB_ELSEWHERE = 64


def full_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats over the targets that are not IGNORED.

    hidden (N, d), weight (V, d), targets (N,) int64; the result is a 0-d fp32 tensor.
    """
    logits = F.linear(hidden, weight)
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED)


def chunked_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    rows: int,
    form: Form = OWN,
    *,
    fused: bool = False,
) -> Tensor:
    """Return the same as full_loss, computing `rows` rows of logits at a time.

    The gradients are computed along with the loss, chunk by chunk: at most (rows, V) logits exist
    at once, also in the backward pass. The loss and the sums over chunks are fp32 in every
    precision. `fused` replaces the logits by their gradients in one compiled pass. Only one
    backward pass is possible, even with retain_graph.
    """
    if not torch.is_grad_enabled():
        # A Function does not check this itself, and would compute gradients for nothing.
        hidden, weight = hidden.detach(), weight.detach()
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, targets, rows, form, fused)
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        rows: int,
        form: Form,
        fused: bool,
    ) -> Tensor:
        device = hidden.device.type
        # Autocast is switched off inside a Function; these casts are the ones it would make.
        compute = _format_of_products(hidden)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        rows = chunk_rows(hidden.size(0), rows, compute == torch.float16)
        with torch.autocast(device, enabled=False):
            softmax = softmax_of(weight, compute, rows, form, fused)
            head = softmax.head
            counted = targets != IGNORED
            own = targets.where(counted, 0)  # ignored rows need some valid index
            # fp32 also where `hidden` has 16 bits: backward scales it, and then rounds it once.
            wide = torch.promote_types(hidden.dtype, torch.float32)
            grad_hidden = torch.empty_like(hidden, dtype=wide) if needs_hidden else None
            by_tiles = tiles(device, compute, form)
            total = _HeadGradient(weight, head, by_tiles) if needs_weight else None
            parts = zip(
                *(whole.split(rows) for whole in (hidden, own, counted)),
                itertools.repeat(None) if grad_hidden is None else grad_hidden.split(rows),
                strict=False,
            )
            losses = []
            for hidden_part, *targets_part, out in itertools.islice(parts, form.chunks):
                x = hidden_part.to(compute)
                losses.append(softmax.losses(x, *targets_part))
                if not (needs_hidden or needs_weight):
                    continue
                slope, factor = softmax.slope(*targets_part)
                # Scale the narrow operand of each product. The count divides later: fp16 can hold
                # this.
                if out is not None:
                    _product(slope @ head, factor, out)
                if total is not None:
                    total.add(slope, x if factor is None else x * factor.to(compute).unsqueeze(1))
            count = counted.sum()
            loss = torch.cat(losses).sum() / count
        ctx.save_for_backward(count)
        ctx.gradients = grad_hidden, total and total.sum
        ctx.dtype = hidden.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (count,) = ctx.saved_tensors
        if ctx.gradients is None:
            raise RuntimeError("the chunked loss keeps its gradients for one backward pass only")
        gradients, ctx.gradients = ctx.gradients, None
        # In place: a copy, as large as the embedding, would raise the peak.
        scale = grad / count
        hidden, weight = (g if g is None else g.mul_(scale.to(g.dtype)) for g in gradients)
        return hidden if hidden is None else hidden.to(ctx.dtype), weight, None, None, None, None


class _HeadGradient:
    """The gradient of the head (V, d): an fp32 sum of the chunks' products, rows (W, d).

    The first product is written, not added to zeros. A CPU copies what it adds to fp32 first; with
    `by_tiles`, one piece at a time so that it stays in the cache, and all 16-bit products share one
    buffer, since fresh memory costs a CPU page faults. Elsewhere a product is gone before the
    softmax of the next chunk needs its own memory.
    """

    def __init__(self, weight: Tensor, head: Tensor, by_tiles: bool) -> None:
        self.sum, self._first = torch.empty_like(weight, dtype=torch.float32), True
        self._wide = head.dtype == torch.float32
        self._product = torch.empty_like(head) if by_tiles else None

    def add(self, slope: Tensor, x: Tensor) -> None:
        """Add the product of the slopes (n, W) with the hidden states (n, d)."""
        first, self._first = self._first, False
        if self._wide:
            if first:
                torch.mm(slope.t(), x, out=self.sum)
            else:
                self.sum.addmm_(slope.t(), x)
            return
        product = torch.mm(slope.t(), x, out=self._product)[: len(self.sum)]
        if first:
            self.sum.copy_(product)
        elif self._product is None:
            self.sum += product
        else:
            for part, more in zip(self.sum.split(TILE), product.split(TILE), strict=True):
                part.add_(more)


def _product(product: Tensor, factor: Tensor | None, out: Tensor) -> None:
    if factor is None:
        out.copy_(product)
    else:
        torch.mul(product, factor.to(product.dtype).unsqueeze(1), out=out)


def chunk_mib(asked: int, device: str, fused: bool = False) -> int:
    """Return --loss-chunk-mib for a `device` type: `asked`, or its default when that is 0."""
    return asked or (_CHUNK_MIB_FUSED if fused else _CHUNK_MIB).get(device, _CHUNK_MIB_ELSEWHERE)


def half_logits(hidden: Tensor, form: Form, fused: bool) -> bool:
    """Return whether a chunk of the loss holds its 16-bit logits and nothing else of that size."""
    return fused or tiles(hidden.device.type, _format_of_products(hidden), form)


def _format_of_products(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def rows_within(mib: int, vocabulary: int, half: bool = False) -> int:
    """Return how many rows of logits fit into `mib` MiB, at least one.

    A logit takes 4 bytes, or 2 where half_logits() is true.
    """
    return max(1, mib * 2**20 // ((2 if half else 4) * vocabulary))


def chunk_rows(count: int, rows: int, half: bool) -> int:
    """Return how many of `count` rows chunked_loss takes at a time; `half`: in fp16."""
    return _even(count, min(rows, _FP16_ROWS) if half else rows)


def _even(count: int, most: int) -> int:
    """Return the rows per chunk: at most `most`, so that all chunks are about equal.

    A multiple of _ALIGNED where possible: other sizes make CPU products up to a third slower.
    """
    most -= most % _ALIGNED if most >= _ALIGNED else 0
    rows = -(-count // -(-count // most))
    return min(most, rows + -rows % _ALIGNED)
