"""Linear layers of a pruned model in sparse form: compressed rows, and 2:4 for tensor cores."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from gpt2.config.errors import UserError
from gpt2.model.language_model import LanguageModel

#: Input rows per product with a CSR matrix. All 2048 of a batch at once leave the cache: a quarter
#: to a half slower for 768 x 3072 (two cores of an AMD EPYC).
ROWS = 128


class CsrLinear(nn.Module):
    """A linear layer whose matrix is held as compressed sparse rows, with 32-bit indices."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            csr = layer.weight.detach().to_sparse_csr()
        rows, columns = csr.crow_indices().int(), csr.col_indices().int()
        self.weight = torch.sparse_csr_tensor(
            rows, columns, csr.values(), size=csr.shape, check_invariants=True
        )
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the dense layer's result on (..., in): (..., out)."""
        parts = torch.split(x.reshape(-1, x.size(-1)), ROWS)
        out = torch.cat([(self.weight @ part.t()).t() for part in parts])  # (N, out)
        out = out.view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


def pruned_layers(model: LanguageModel) -> dict[str, nn.Linear]:
    """Return the linear layers of the blocks whose matrix has a zero, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and bool((layer.weight == 0.0).any())
    }


def is_two_of_four(weight: Tensor) -> bool:
    """Return whether every 4 entries of a row, counted from its start, have at most 2 nonzeros."""
    if weight.size(1) % 4:
        return False
    return int((weight.reshape(-1, 4) != 0.0).sum(dim=1).max()) <= 2


def sparsity(layers: dict[str, nn.Linear]) -> float:
    """Return the share of zeros in the matrices of `layers`."""
    zeros = sum(int((layer.weight == 0.0).sum()) for layer in layers.values())
    return zeros / sum(layer.weight.numel() for layer in layers.values())


def with_sparse_layers(model: LanguageModel, form: str) -> LanguageModel:
    """Return a copy of `model` whose pruned layers hold their matrix in `form`.

    "2:4" needs a matrix of (32 n, 64 m) in bf16, as torch's kernels do. Raises UserError.
    """
    sparse = copy.deepcopy(model)
    for name, layer in pruned_layers(sparse).items():
        if form == "csr":
            parent, _, last = name.rpartition(".")
            setattr(sparse.get_submodule(parent), last, CsrLinear(layer))
            continue
        rows, columns = layer.weight.shape
        if rows % 32 or columns % 64:
            raise UserError(
                f"{name} is {rows} x {columns}; 2:4 kernels need rows in multiples of 32 and "
                "columns of 64: use --device cpu"
            )
        with warnings.catch_warnings():
            message = "The PyTorch API of SparseSemiStructuredTensor is in prototype stage"
            warnings.filterwarnings("ignore", message, UserWarning)
            packed = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        layer.weight = nn.Parameter(packed, requires_grad=False)
    return sparse


def matrix_bytes(model: LanguageModel, names: set[str]) -> int:
    """Return the bytes of the matrices of the layers `names`, indices included."""
    return sum(_held(model.get_submodule(name).weight) for name in names)


def _held(weight: Any) -> int:
    if weight.layout == torch.sparse_csr:
        parts = [weight.values(), weight.col_indices(), weight.crow_indices()]
    elif is_traceable_wrapper_subclass(weight):  # torch's 2:4 tensor, around several
        names, _ = weight.__tensor_flatten__()
        parts = [getattr(weight, name) for name in names]
    else:
        parts = [weight]
    return sum(part.numel() * part.element_size() for part in parts)


@torch.inference_mode()
def check_same(dense: LanguageModel, sparse: LanguageModel, ids: Tensor) -> None:
    """Raise UserError if the sparse model's results differ from the dense one's."""
    theirs, ours = (model.hidden(ids).float() for model in (sparse, dense))
    tolerance = 1e-4 if next(dense.parameters()).dtype == torch.float32 else 5e-2
    scale = float(ours.abs().max())
    difference = float((theirs - ours).abs().max())
    if not difference <= tolerance * scale:
        raise UserError(
            f"--sparse: the sparse model computes something else: its hidden states differ by "
            f"{difference:.3g}, and the largest is {scale:.3g}; nothing was measured"
        )
