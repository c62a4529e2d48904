"""Softmax over the rows of logits that the loss holds at a time, in four implementations."""

from __future__ import annotations

import itertools
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2.model.form import Form
from gpt2.model.fused_softmax import slopes

#: Rows of the matrix whose logits are computed and processed while they are in a core's cache.
TILE = 1024

#: fp32 numbers that a row-wise pass keeps in a core's cache: 1 MiB.
_CACHED = 2**18

#: 16-bit heads are padded to a multiple of this many rows: products of other sizes are slower.
_PADDED = 64

#: Smallest head that a CPU pads: the padding adds less than 2 %.
_WORTH_PADDING = 64 * _PADDED


class Softmax(Protocol):
    """Losses of a few hidden states at a time, and their gradients by the logits (slopes).

    head (W, d) is the head in the dtype of the products, with W - V rows of padding.
    """

    head: Tensor

    def losses(self, x: Tensor, own: Tensor, counted: Tensor) -> Tensor:
        """Return the fp32 loss (n) of each hidden state in x (n, d), 0 where it is not `counted`.

        own (n) are the targets. n is at most the number of rows it was built for.
        """
        ...

    def slope(self, own: Tensor, counted: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Return d losses / d logits (n, W) for the last `losses`, and factors to multiply them by.

        The factors are (n), or None where all are 1. Both are buffers that the next call
        overwrites.
        """
        ...


def softmax_of(weight: Tensor, dtype: torch.dtype, rows: int, form: Form, fused: bool) -> Softmax:
    """Return the implementation for a head `weight` (V, d) whose products are in `dtype`."""
    device = weight.device.type
    tall = (device == "cpu" and dtype == torch.float32) if form.tall is None else form.tall
    if tall and not fused:
        return TallSoftmax(weight.to(dtype), rows)
    tiled = not fused and tiles(device, dtype, form)
    padded = dtype != torch.float32 and (
        len(weight) >= _WORTH_PADDING if tiled else _on_cuda(device, form)
    )
    head = _padded(weight, dtype) if padded else weight.to(dtype)
    if tiled:
        return TiledSoftmax(head, rows, len(weight), form.chunks)
    return (FusedSoftmax if fused else WideSoftmax)(head, rows, len(weight))


def tiles(device: str, dtype: torch.dtype, form: Form) -> bool:
    """Return whether chunked logits are kept in the 16 bits of `dtype` only: see TiledSoftmax."""
    return device == "cpu" and dtype != torch.float32 and not _on_cuda(device, form)


def _on_cuda(device: str, form: Form) -> bool:
    return device == "cuda" if form.cuda is None else form.cuda


class WideSoftmax:
    """Logits (n, W) as the products with the head (W, d) give them, and an fp32 copy."""

    def __init__(self, head: Tensor, rows: int, vocabulary: int) -> None:
        self.head = head
        # On a CPU, allocating memory in every chunk costs a tenth of the time.
        self._logits = head.new_empty(rows, len(head))
        self._wide = head.new_empty(rows, len(head), dtype=torch.float32)
        self._numbers = torch.arange(rows, device=head.device)
        self._padding = self._logits[:, vocabulary:] if vocabulary < len(head) else None

    def losses(self, x: Tensor, own: Tensor, counted: Tensor) -> Tensor:
        """Return the losses: see Softmax."""
        count = len(own)
        logits = torch.mm(x, self.head.t(), out=self._logits[:count])
        if self._padding is not None:
            self._padding.fill_(-torch.inf)
        log_probs = torch.log_softmax(logits, dim=-1, dtype=torch.float32, out=self._wide[:count])
        return F.nll_loss(log_probs, own, reduction="none").where(counted, 0.0)

    def slope(self, own: Tensor, counted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the slopes and their factors: see Softmax."""
        count = len(own)
        slope = self._wide[:count].exp_()
        slope[self._numbers[:count], own] -= 1.0
        share = counted.to(self.head.dtype)
        if slope.dtype == self.head.dtype:
            return slope, share
        return self._logits[:count].copy_(slope), share  # the logits are not needed any more


class TiledSoftmax:
    """Only 16-bit logits (n, W), on a CPU: slopes replace them, a few rows in the cache at a time.

    Only those rows are widened to fp32. Padding needs no pass: the head is zero there, and so is
    the slope.
    """

    def __init__(self, head: Tensor, rows: int, vocabulary: int, most: int | None = None) -> None:
        self.head, self._vocabulary = head, vocabulary
        self._most = most  # tiles to compute, in a plan
        self._logits = head.new_empty(rows, len(head))
        tile = min(rows, max(1, torch.get_num_threads() * _CACHED // vocabulary))
        self._wide = head.new_empty(tile, vocabulary, dtype=torch.float32)
        self._numbers = torch.arange(rows, device=head.device)

    def losses(self, x: Tensor, own: Tensor, counted: Tensor) -> Tensor:
        """Return the losses: see Softmax. The slopes replace the logits at once."""
        rows = torch.mm(x, self.head.t(), out=self._logits[: len(own)])
        logits = rows[:, : self._vocabulary]
        targets = logits.gather(1, own.unsqueeze(1))[:, 0].float()
        totals = torch.empty_like(targets)  # log-sum-exp of each row
        parts = zip(*(whole.split(len(self._wide)) for whole in (logits, totals)), strict=True)
        for tile, total in itertools.islice(parts, self._most):
            wide = self._wide[: len(tile)].copy_(tile)
            top = wide.amax(1)
            torch.softmax(wide, 1, out=wide)
            torch.sub(top, wide.amax(1).log_(), out=total)
            tile.copy_(wide)
        losses = totals - targets
        # Not probability - 1: near 1, rounded to 16 bits, it has no digits left.
        logits[self._numbers[: len(own)], own] = torch.expm1(-losses).to(logits.dtype)
        return losses.where(counted, 0.0)

    def slope(self, own: Tensor, counted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the slopes and their factors: see Softmax."""
        return self._logits[: len(own)], counted.to(self.head.dtype)


class FusedSoftmax:
    """Only the memory of the logits: one compiled pass replaces them by slopes."""

    def __init__(self, head: Tensor, rows: int, vocabulary: int) -> None:
        self.head, self._vocabulary = head, vocabulary
        self._logits = head.new_empty(rows, len(head))

    def losses(self, x: Tensor, own: Tensor, counted: Tensor) -> Tensor:
        """Return the losses: see Softmax. The slopes replace the logits at once."""
        logits = torch.mm(x, self.head.t(), out=self._logits[: len(own)])
        losses: Tensor = slopes(logits, own, counted, self._vocabulary)
        return losses

    def slope(self, own: Tensor, _: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Return the slopes: see Softmax."""
        return self._logits[: len(own)], None


class TallSoftmax:
    """Logits held as columns (V, n), for fp32 on a CPU.

    There the product that gives (V, n) is faster by a half than the one that gives (n, V): V is
    large, n and d are small. Each pass works on a tile of logits in the cache. They stay
    exponentials: the narrow side of the later products is divided instead.
    """

    def __init__(self, head: Tensor, rows: int) -> None:
        self.head, self._held = head, head.new_empty(len(head) * rows)
        self._total = head.new_empty(0)

    def losses(self, x: Tensor, own: Tensor, counted: Tensor) -> Tensor:
        """Return the losses: see Softmax."""
        logits, columns = self._columns(len(x)), x.t()
        tiles = logits.split(TILE)
        peak = x.new_full((len(x),), -torch.inf)
        for tile, part in zip(tiles, self.head.split(TILE), strict=True):
            peak = torch.maximum(peak, torch.mm(part, columns, out=tile).amax(dim=0))
        below = logits.gather(0, own.unsqueeze(0))[0] - peak
        self._total = torch.zeros_like(peak)
        for tile in tiles:
            self._total += tile.sub_(peak).exp_().sum(dim=0)
        return (self._total.log() - below).where(counted, 0.0)

    def slope(self, own: Tensor, counted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the slopes and their factors: see Softmax."""
        slope = self._columns(len(own))
        slope[own, torch.arange(len(own))] -= self._total
        return slope.t(), counted / self._total

    def _columns(self, count: int) -> Tensor:
        return self._held[: len(self.head) * count].view(-1, count)


def padded_rows(vocabulary: int) -> int:
    """Return the number of rows of a padded head."""
    return vocabulary + -vocabulary % _PADDED


def _padded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    head = weight.new_zeros(padded_rows(len(weight)), weight.size(1), dtype=dtype)
    head[: len(weight)] = weight
    return head
