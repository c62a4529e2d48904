"""How many weights each matrix loses under a sparsity pattern, exact to one weight.

Global patterns need no counts. `layer`, `erk` and `lamp` (lamp.py) give each matrix of the model a
share, separately for queries, keys and values. `row` and n:m divide the rows of a stored parameter,
where stacking makes no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gpt2.prune.topk import FIRST, LAST, smallest, smallest_in_rows

#: Patterns that zero N of every M inputs in a row, by name.
GROUPED = {"2:4": (2, 4), "4:8": (4, 8)}
#: Patterns that give each matrix of the model its own share.
BY_MATRIX = ("layer", "erk", "lamp")


def count_of(sparsity: float, total: int) -> int:
    """Return `sparsity` times `total`, rounded to a whole number of weights."""
    return round(sparsity * total)


def layer_counts(
    pattern: str, sparsity: float, shapes: Mapping[str, torch.Size], pruned: Mapping[str, int]
) -> dict[str, int]:
    """Return how many weights of each matrix to prune; the sum is count_of(sparsity, all).

    Pattern `erk` keeps small matrices denser than large ones; every other pattern takes the same
    share of each. Weights in `pruned` stay pruned, so that no matrix gets fewer.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    total = count_of(sparsity, sum(sizes.values()))
    if pattern == "erk":
        kept = erk_densities(shapes, sparsity)
        quotas = [size * (1.0 - kept[name]) for name, size in sizes.items()]
    else:
        quotas = [size * sparsity for size in sizes.values()]
    at_least = [pruned[name] for name in sizes]
    counts = apportion(total, quotas, at_least, list(sizes.values()))
    return dict(zip(sizes, counts, strict=True))


def erk_densities(shapes: Mapping[str, torch.Size], sparsity: float) -> dict[str, float]:
    """Return the density of each matrix by Erdos-Renyi (Mocanu et al. 2018).

    As in Evci et al. 2020, 3.1: densities are proportional to (inputs + outputs) / (inputs x
    outputs). A matrix whose density would exceed 1 stays dense, and the others share the rest.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    raw = {name: sum(shape) / shape.numel() for name, shape in shapes.items()}
    wanted = (1.0 - sparsity) * sum(sizes.values())
    dense: set[str] = set()
    while True:
        free = [name for name in sizes if name not in dense]
        left = wanted - sum(sizes[name] for name in dense)
        scale = left / sum(raw[name] * sizes[name] for name in free) if free else 0.0
        over = {name for name in free if scale * raw[name] > 1.0}
        if not over:
            return {name: 1.0 if name in dense else scale * raw[name] for name in sizes}
        dense |= over


def apportion(
    total: int, quotas: Sequence[float], at_least: Sequence[int], at_most: Sequence[int]
) -> list[int]:
    """Return whole numbers near `quotas` whose sum is `total`, each within its bounds.

    Largest remainder: each gets the whole part of its quota; the rest is given one by one to those
    furthest below theirs, ties to the first. Where bounds prevent that, the rest is handed out
    again, in either direction, until the sum is right. Raises ValueError where the bounds do not
    allow it.
    """
    if not sum(at_least) <= total <= sum(at_most):
        raise ValueError(f"{total} is not between {sum(at_least)} and {sum(at_most)}")
    counts = [
        min(high, max(low, int(quota)))
        for quota, low, high in zip(quotas, at_least, at_most, strict=True)
    ]
    places = range(len(counts))
    while (missing := total - sum(counts)) != 0:
        if missing > 0:
            order = sorted(places, key=lambda i: (counts[i] - quotas[i], i))
            room = [i for i in order if counts[i] < at_most[i]]
        else:
            order = sorted(places, key=lambda i: (quotas[i] - counts[i], -i))
            room = [i for i in order if counts[i] > at_least[i]]
        for i in room[: abs(missing)]:
            counts[i] += 1 if missing > 0 else -1
    return counts


def row_counts(total: int, rows: int) -> Tensor:
    """Divide `total` among `rows` rows: int64 (rows,); the first rows take the remainder."""
    each, over = divmod(total, rows)
    return each + (torch.arange(rows) < over).long()


def choose(found: Tensor, pattern: str, count: int) -> Tensor:
    """Return a mask of the `count` smallest int32 keys of one matrix (out, in) in a pattern.

    `row` takes equally many of each row, n:m at most n of each group, other patterns the smallest
    of all.
    """
    if pattern == "row":
        return smallest_in_rows(found, row_counts(count, len(found)).to(found.device))
    if pattern in GROUPED:
        found = only_grouped(found, pattern)
    (mask,) = smallest([lambda: found], count)
    return mask


def only_grouped(found: Tensor, pattern: str) -> Tensor:
    """Return int32 keys (out, in) with those that `pattern` (n:m) must keep set to LAST.

    In every group of m neighbouring inputs of a row, the n smallest keys are unchanged.
    """
    given, group = GROUPED[pattern]
    groups = found.reshape(-1, group)
    counts = torch.full((len(groups),), given, device=found.device)
    loose = smallest_in_rows(groups, counts).view_as(found)
    return torch.where(loose, found, LAST)


def with_pruned_first(found: Tensor, pruned: Tensor) -> Tensor:
    """Return keys that rank pruned weights before all others: pruning is final."""
    return found.masked_fill(pruned, FIRST)
