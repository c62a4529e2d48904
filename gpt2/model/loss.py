"""Cross-entropy of the tied head, without ever holding all logits."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2.model.form import OWN, Form
from gpt2.model.softmax import TILE, softmax_of, tiles

#: Targets with this value count neither in the loss nor in its mean.
IGNORED = -100

#: Most rows whose gradients are summed in fp16, where more could pass 65504 at any loss scale.
_FP16_ROWS = 1024

#: fp32 numbers in a cache line of 64 bytes.
_ALIGNED = 16

#: MiB of logits held at once where the device decides: on a GPU every chunk costs launches, and a
#: pass over the head's gradient.
_CHUNK_MIB = {"cuda": 512}
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

    The gradients are computed along with the loss, chunk by chunk, so at most (rows, V) logits
    exist at once in either pass. The loss and the sums over chunks are fp32 in every precision.
    `fused` turns logits into slopes in one compiled pass. One backward pass is possible, also where
    the graph is retained.
    """
    if not torch.is_grad_enabled():
        # A Function does not look at this by itself, and would compute gradients for nothing.
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
        # Inside a Function autocast is off by hand: the casts below are the ones it would make.
        compute = _format_of_products(hidden)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        rows = chunk_rows(hidden.size(0), rows, compute == torch.float16)
        with torch.autocast(device, enabled=False):
            softmax = softmax_of(weight, compute, rows, form, fused)
            head = softmax.head
            counted = targets != IGNORED
            own = targets.where(counted, 0)  # an ignored row's target: any that exists
            grad_hidden = torch.empty_like(hidden) if needs_hidden else None
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
                # On the narrow side of the products; by the count later: fp16 can hold this.
                if out is not None:
                    _product(slope @ head, factor, out)
                if total is not None:
                    total.add(slope, x if factor is None else x * factor.to(compute).unsqueeze(1))
            count = counted.sum()
            loss = torch.cat(losses).sum() / count
        ctx.save_for_backward(count)
        ctx.gradients = grad_hidden, total and total.sum
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (count,) = ctx.saved_tensors
        if ctx.gradients is None:
            raise RuntimeError("the chunked loss keeps its gradients for one backward pass only")
        gradients, ctx.gradients = ctx.gradients, None
        # In place: another matrix of the size of the embedding would come on top of the peak.
        scale = grad / count
        hidden, weight = (g if g is None else g.mul_(scale.to(g.dtype)) for g in gradients)
        return hidden, weight, None, None, None, None


class _HeadGradient:
    """The gradient of the head (V, d): a sum over chunks in fp32 of products with its rows (W, d).

    The first product is written and not added to zeros, and 16-bit ones share the memory of one.
    A CPU copies what it adds into fp32 first: `by_tiles` a piece at a time, in the cache.
    """

    def __init__(self, weight: Tensor, head: Tensor, by_tiles: bool) -> None:
        self._by_tiles = by_tiles
        self.sum, self._first = torch.empty_like(weight, dtype=torch.float32), True
        self._product = None if head.dtype == torch.float32 else torch.empty_like(head)

    def add(self, slope: Tensor, x: Tensor) -> None:
        """Add the product of the slopes (n, W) and the hidden states (n, d)."""
        first, self._first = self._first, False
        if self._product is None:
            if first:
                torch.mm(slope.t(), x, out=self.sum)
            else:
                self.sum.addmm_(slope.t(), x)
            return
        product = torch.mm(slope.t(), x, out=self._product)[: len(self.sum)]
        if first:
            self.sum.copy_(product)
        elif not self._by_tiles:
            self.sum += product
        else:
            for part, more in zip(self.sum.split(TILE), product.split(TILE), strict=True):
                part.add_(more)


def _product(product: Tensor, factor: Tensor | None, out: Tensor) -> None:
    if factor is None:
        out.copy_(product)
    else:
        torch.mul(product, factor.to(product.dtype).unsqueeze(1), out=out)


def chunk_mib(asked: int, device: str) -> int:
    """Return --loss-chunk-mib for a `device` type: `asked`, or where that is 0 what suits it."""
    return asked or _CHUNK_MIB.get(device, _CHUNK_MIB_ELSEWHERE)


def half_logits(hidden: Tensor, form: Form, fused: bool) -> bool:
    """Return whether nothing beside 16-bit logits is held of a chunk of the loss of `hidden`."""
    return fused or tiles(hidden.device.type, _format_of_products(hidden), form)


def _format_of_products(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def rows_within(mib: int, vocabulary: int, half: bool = False) -> int:
    """Return how many rows of logits fit into `mib` MiB, at least one.

    A logit counts 4 bytes, and 2 where `half_logits` says so.
    """
    return max(1, mib * 2**20 // ((2 if half else 4) * vocabulary))


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
