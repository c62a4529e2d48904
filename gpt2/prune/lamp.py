"""LAMP: how many weights each matrix gives, by its own distribution (Lee et al. 2021).

arXiv 2010.07611, equation 3: the score of a weight is its square over the sum of the squares of all
weights of its matrix that are not smaller. The lowest scores of the whole model go. A matrix's last
weight scores 1, so no matrix is emptied before all others are down to their last one, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gpt2.prune.topk import keys, smallest


def lamp_scores(weights: Tensor) -> Tensor:
    """Return the LAMP scores of one matrix's weights: fp64 (N,), in the order of their sizes.

    Weights that are zero score 0. Of equal weights each in turn counts as the smaller one, as in
    the paper, where the index of the sorted weights decides.
    """
    squares = weights.detach().flatten().double().square_().sort().values
    sums = squares.flip(0).cumsum(0).flip(0)
    return torch.where(squares > 0.0, squares / sums, 0.0)


def lamp_counts(
    make: Sequence[Callable[[], Tensor]], total: int, pruned: Sequence[int]
) -> list[int]:
    """Return how many weights each matrix gives so that together they are `total`.

    `make` holds functions that return the weights of a matrix, three times each (see `smallest`),
    zero where pruned. `pruned` says how many of each are: these count among those given.
    """

    def live(weights: Callable[[], Tensor], gone: int) -> Tensor:
        return keys(lamp_scores(weights())[gone:])  # zeros come first in their order

    functions = [functools.partial(live, m, gone) for m, gone in zip(make, pruned, strict=True)]
    chosen = smallest(functions, total - sum(pruned))
    return [
        gone + int(torch.count_nonzero(mask)) for gone, mask in zip(pruned, chosen, strict=True)
    ]
