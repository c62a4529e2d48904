"""The matrices of a model: all of it, each row once, and those that attention multiplies by."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gpt2.model.matrices import matrices_of, stored
from tests.support.pruned import sequences, small_gpt


def test_stacked_parameters_are_divided_as_attention_divides_them() -> None:
    model = small_gpt()
    attention = model.transformer.h[1].attn
    name = "transformer.h.1.attn.c_attn.weight"
    matrices = matrices_of(name, attention.c_attn.weight.shape)
    assert [matrix.name for matrix in matrices] == [
        f"transformer.h.1.attn.c_attn.{part}.weight" for part in "qkv"
    ]
    assert {matrix.parameter for matrix in matrices} == {name}
    inputs: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.extend((q, k, v))
        return v

    attention.attend = attend
    attention.c_attn.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    attention.c_attn.bias.data.zero_()
    model.transformer(sequences(3))
    for matrix, used in zip(matrices, seen, strict=True):  # (B, H, T, D)
        part = model.get_parameter(name)[matrix.rows]
        assert part.shape == matrix.shape
        expected = F.linear(inputs[0].reshape(-1, 16), part)
        torch.testing.assert_close(used.transpose(1, 2).reshape(-1, 16), expected)


def test_all_other_parameters_are_one_matrix_each() -> None:
    for name, weight in small_gpt().prunable("all").items():
        matrices = matrices_of(name, weight.shape)
        assert sum(matrix.shape.numel() for matrix in matrices) == weight.numel()
        rows = [row for m in matrices for row in range(weight.size(0))[m.rows]]
        assert rows == list(range(weight.size(0)))
        if "c_attn" not in name:
            assert matrices == (stored(name, weight.shape),)
