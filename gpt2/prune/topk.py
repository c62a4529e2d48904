"""The k smallest of many scores, exactly, over several tensors without concatenating them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gpt2.config.errors import Exit, UserError

#: Elements processed at once: bounds the memory besides one tensor of scores.
CHUNK = 1 << 18
_HALF = 1 << 16
#: Keys outside those of numbers: before all of them, and after all of them.
FIRST, LAST = -(1 << 31), (1 << 31) - 1


def keys(scores: Tensor) -> Tensor:
    """Return int32 numbers in the order of fp32 `scores`; +0 and -0 are equal.

    The bits of positive fp32 numbers, read as integers, are in their order; those of negative
    numbers are reversed. Raises UserError for NaN.
    """
    if bool(torch.isnan(scores).any()):
        raise UserError(
            "diverged: weights cannot be ranked for pruning, a score is not a number; lower "
            "--learning-rate",
            code=Exit.DIVERGED,
        )
    bits = (scores.float() + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def smallest(make: Sequence[Callable[[], Tensor]], count: int) -> Iterator[Tensor]:
    """Yield for each tensor of keys a bool mask, True for the `count` smallest keys of all.

    `make` holds functions that return the tensors of int32 keys (see `keys`). Each is called three
    times, so that only one tensor needs to exist at a time. Of equal keys those in earlier tensors,
    then those at lower indices, come first. The result does not depend on the number of threads,
    the device or the size of the chunks.
    """
    limit, ties = _threshold(make, count)
    for function in make:
        found = function()
        mask = found < limit
        if ties:
            equal = (found == limit).flatten()
            taken = min(ties, int(torch.count_nonzero(equal)))
            ties -= taken
            if taken:
                places = equal.nonzero().flatten()[:taken]
                mask.view(-1)[places] = True
        yield mask


def smallest_in_rows(found: Tensor, counts: Tensor) -> Tensor:
    """Return a mask (R, C), True for the counts[r] smallest of the int32 keys in each row r.

    Of equal keys those at lower columns come first.
    """
    rows, columns = found.shape
    mask = torch.empty(rows, columns, dtype=torch.bool, device=found.device)
    step = max(1, CHUNK // columns)
    for start in range(0, rows, step):
        part = found[start : start + step]
        ranks = part.argsort(dim=1, stable=True).argsort(dim=1)
        mask[start : start + step] = ranks < counts[start : start + step].unsqueeze(1)
    return mask


def _threshold(make: Sequence[Callable[[], Tensor]], count: int) -> tuple[int, int]:
    """Return the largest key to take, and how many keys equal to it to take."""
    if count <= 0:
        return FIRST, 0  # no key is smaller
    high, before = _bin(_histogram(make, None), count)
    low, within = _bin(_histogram(make, high), count - before)
    return ((high - _HALF // 2) << 16) + low, count - before - within


def _bin(histogram: Tensor, count: int) -> tuple[int, int]:
    """Return the bin of the count-th element, and the number of elements in earlier bins."""
    sums = histogram.cumsum(0)
    place = int(torch.searchsorted(sums, count))
    if place == len(sums):
        raise ValueError(f"{count} of {int(sums[-1])} elements were asked for")
    return place, int(sums[place] - histogram[place])


def _histogram(make: Iterable[Callable[[], Tensor]], high: int | None) -> Tensor:
    """Count keys by their upper half; with `high`, those with that upper half by their lower."""
    counts = torch.zeros(_HALF, dtype=torch.int64)
    for function in make:
        for part in function().flatten().split(CHUNK):
            upper = (part >> 16) + _HALF // 2
            inside = upper if high is None else part[upper == high] & (_HALF - 1)
            counts += torch.bincount(inside, minlength=_HALF).cpu()
    return counts
