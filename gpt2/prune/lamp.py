"""LAMP: how many weights each matrix loses, by its own distribution (Lee et al. 2021).

arXiv 2010.07611, equation 3: a weight's score is its square, divided by the sum of squares of all
weights of its matrix that are not smaller. The lowest scores of the whole model are pruned. A
matrix's last weight scores 1, so no matrix is emptied before all others have one weight left, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gpt2.prune.topk import keys, smallest


def lamp_scores(weights: Tensor) -> Tensor:
    """Return the LAMP scores of one matrix's weights: fp64 (N,), ordered by magnitude.

    Weights of zero score 0. Of equal weights each in turn counts as the smaller one, as in the
    paper, where the index of the sorted weights decides.
    """
    squares = weights.detach().flatten().double().square_().sort().values
    sums = squares.flip(0).cumsum(0).flip(0)
    return torch.where(squares > 0.0, squares / sums, 0.0)


def lamp_counts(
    make: Sequence[Callable[[], Tensor]], total: int, pruned: Sequence[int]
) -> list[int]:
    """Return how many weights each matrix loses, so that the sum is `total`.

    `make` holds functions that return the weights of a matrix, zero where pruned; each is called
    three times (see `smallest`). `pruned` are the counts of already pruned weights; the result
    includes them.
    """

    def live(weights: Callable[[], Tensor], gone: int) -> Tensor:
        return keys(lamp_scores(weights())[gone:])  # zeros are first in this order

    functions = [functools.partial(live, m, gone) for m, gone in zip(make, pruned, strict=True)]
    chosen = smallest(functions, total - sum(pruned))
    return [
        gone + int(torch.count_nonzero(mask)) for gone, mask in zip(pruned, chosen, strict=True)
    ]
