"""The weight matrices of a model: one per parameter, or several where one parameter stacks them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Parameters that stack matrices of equal shape, by the end of their name, with the name of each
#: part. GPT-2 stores queries, keys and values in one parameter, rows in this order.
STACKED = {"c_attn.weight": ("q", "k", "v")}


@dataclass(frozen=True)
class Matrix:
    """One matrix: the rows `rows` of the parameter `parameter`, a tensor (out, in).

    name: the parameter's name, or the part's: transformer.h.0.attn.c_attn.q.weight.
    """

    name: str
    parameter: str
    rows: slice
    shape: torch.Size


def matrices_of(parameter: str, shape: torch.Size) -> tuple[Matrix, ...]:
    """Return the matrices in the parameter named `parameter`, of `shape`, first to last.

    Together they cover its rows. Everything that works per matrix uses them: the allocation of
    sparsity, growth, one-shot pruning, Muon, and the sparsities that a run reports.
    """
    parts = next((parts for end, parts in STACKED.items() if parameter.endswith(end)), ())
    if not parts:
        return (stored(parameter, shape),)
    height = shape[0] // len(parts)
    stem = parameter.removesuffix("weight")
    return tuple(
        Matrix(
            f"{stem}{part}.weight",
            parameter,
            slice(place * height, (place + 1) * height),
            torch.Size((height, *shape[1:])),
        )
        for place, part in enumerate(parts)
    )


def stored(parameter: str, shape: torch.Size) -> Matrix:
    """Return the whole parameter as one matrix, as it is stored."""
    return Matrix(parameter, parameter, slice(0, shape[0]), shape)
