"""SparseGPT (Frantar and Alistarh 2023): one shot; the remaining weights compensate.

As in the paper, each matrix loses the same share (`layer`), by 128 sequences of training text. The
paper prunes a trained model and trains no more: --pruning-start 1. The default prunes in the middle
of the run and lets training recover, to be comparable with methods that prune while training.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from gpt2.config.errors import UserError
from gpt2.config.typed import Within
from gpt2.machine.device import exact_products
from gpt2.prune.allocation import GROUPED, apportion, choose
from gpt2.prune.base import PruningContext
from gpt2.prune.oneshot import OneShotPruner
from gpt2.prune.pruner import Pruner
from gpt2.prune.topk import keys


@dataclass(frozen=True)
class Options:
    """SparseGPT's own options."""

    block: Annotated[int, Within("[1, inf)")]
    damping: Annotated[float, Within("(0, inf)")]


class Compensated:
    """Prunes one layer, columns from left to right (Frantar and Alistarh 2023, algorithm 1).

    H = X^T X over the collected inputs. In each block of columns, the weights that are cheapest to
    remove, by w^2 / [H^-1]_jj^2, are pruned; the columns to the right compensate each removal.
    Every block loses the same share of its weights.
    """

    def __init__(self, weight: Tensor, options: Options) -> None:
        self.weight = weight
        self.options = options
        self.hessian = torch.zeros(weight.size(1), weight.size(1), device=weight.device)

    @exact_products()  # TF32 would round H in its fourth digit, and the paper's code turns it off
    def see(self, inputs: Tensor) -> None:
        """Add inputs (N, in) to H."""
        self.hessian.addmm_(inputs.t(), inputs)

    @exact_products()
    def prune(self, count: int, pattern: str, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return which `count` weights of `rows` to prune, and the compensated weights there.

        Each row compensates for its own weights only. The matrices of a layer share H, not the
        count.
        """
        weight = self.weight[rows].float().clone()
        weight[:, self.hessian.diagonal() == 0] = 0.0  # inputs that are always zero have no effect
        inverse = self._inverse
        pruned = torch.zeros_like(weight, dtype=torch.bool)
        starts = range(0, weight.size(1), self._width(pattern))
        blocks = [slice(start, start + self._width(pattern)) for start in starts]
        for columns, share in zip(blocks, self._shares(count, weight, blocks), strict=True):
            diagonal = inverse.diagonal()[columns]
            cost = keys((weight[:, columns] / diagonal).square())
            pruned[:, columns] = choose(cost, pattern, share)
            errors = _compensate(weight[:, columns], pruned[:, columns], inverse[columns, columns])
            weight[:, columns.stop :] -= errors @ inverse[columns, columns.stop :]
        return pruned, weight.to(self.weight.dtype)

    def _width(self, pattern: str) -> int:
        """Return the columns per block; in an n:m pattern those of a group, as in the paper."""
        return GROUPED[pattern][1] if pattern in GROUPED else self.options.block

    def _shares(self, count: int, weight: Tensor, blocks: list[slice]) -> list[int]:
        rows, columns = weight.shape
        sizes = [rows * len(range(columns)[block]) for block in blocks]
        quotas = [count * size / (rows * columns) for size in sizes]
        return apportion(count, quotas, [0] * len(sizes), sizes)

    @functools.cached_property
    def _inverse(self) -> Tensor:
        """Return the upper Cholesky factor of the inverse of the damped H.

        Raises UserError.
        """
        hessian = self.hessian.clone()
        diagonal = hessian.diagonal()
        diagonal[diagonal == 0] = 1.0
        diagonal += self.options.damping * diagonal.mean()
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed:
            factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if failed:
            raise UserError(
                f"--sparsegpt-damping {self.options.damping:g}: the products of the inputs cannot "
                "be inverted; give more damping or more --calibration-sequences (or the run has "
                "diverged: lower --learning-rate)"
            )
        upper: Tensor = factor
        return upper


def _compensate(weight: Tensor, pruned: Tensor, inverse: Tensor) -> Tensor:
    """Zero the pruned columns of a block, in place, from left to right; return their errors.

    weight, pruned: (out, n). inverse: (n, n), upper triangular. Each column's errors, times its row
    of `inverse`, are subtracted from the columns to its right.
    """
    errors = torch.zeros_like(weight)
    for column in range(weight.size(1)):
        lost = torch.where(pruned[:, column], weight[:, column], 0.0)
        errors[:, column] = lost / inverse[column, column]
        weight[:, column:] -= torch.outer(errors[:, column], inverse[column, column:])
    return errors


def build(context: PruningContext, options: Options) -> Pruner:
    """Build the pruner."""
    return OneShotPruner(context, functools.partial(Compensated, options=options))
