"""Cross-entropy of the tied head, without ever holding all logits."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2.model.form import OWN, Form
from gpt2.model.softmax import softmax_of

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
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        compute = dtype or hidden.dtype
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        rows = chunk_rows(hidden.size(0), rows, compute == torch.float16)
        with torch.autocast(device, enabled=False):
            softmax = softmax_of(weight, compute, rows, form, fused)
            head = softmax.head
            counted = targets != IGNORED
            own = targets.where(counted, 0)  # an ignored row's target: any that exists
            grad_hidden = torch.empty_like(hidden) if needs_hidden else None
            grad_weight = None
            if needs_weight:
                grad_weight = torch.zeros_like(weight, dtype=torch.float32)
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
                if grad_weight is None:
                    continue
                if factor is not None:
                    x = x * factor.to(compute).unsqueeze(1)
                if compute == torch.float32:
                    grad_weight.addmm_(slope.t(), x)
                else:
                    _add(grad_weight, slope.t() @ x)
            count = counted.sum()
            loss = torch.cat(losses).sum() / count
        ctx.save_for_backward(count)
        ctx.gradients = grad_hidden, grad_weight
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


def _add(total: Tensor, product: Tensor) -> None:
    """Add a product (W, d) to the gradient (V, d), without the rows of padding if it has any."""
    total += product if len(product) == len(total) else product[: len(total)]


def _product(product: Tensor, factor: Tensor | None, out: Tensor) -> None:
    if factor is None:
        out.copy_(product)
    else:
        torch.mul(product, factor.to(product.dtype).unsqueeze(1), out=out)


def chunk_mib(asked: int, device: str) -> int:
    """Return --loss-chunk-mib for a `device` type: `asked`, or where that is 0 what suits it."""
    return asked or _CHUNK_MIB.get(device, _CHUNK_MIB_ELSEWHERE)


def rows_within(mib: int, vocabulary: int, fused: bool = False) -> int:
    """Return how many rows of logits fit into `mib` MiB, at least one.

    A logit counts 4 bytes, and 2 where they are `fused` and nothing beside the 16-bit ones is held.
    """
    return max(1, mib * 2**20 // ((2 if fused else 4) * vocabulary))


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
