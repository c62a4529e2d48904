"""Tensors in several files, joined along their rows."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from gpt2.checkpoint.joined import JoinedTensors


def parts(tensor: Tensor, ranks: int) -> list[Tensor]:
    """A tensor as FSDP divides it: ceil(rows / ranks) each, the last ranks fewer, or none."""
    return list(tensor.split(math.ceil(tensor.size(0) / ranks)))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_every_stretch_of_rows_is_found(ranks: int) -> None:
    whole = torch.arange(14.0).view(7, 2)
    files: list[dict[str, Tensor]] = [{"count": torch.tensor(3)}, *({} for _ in range(8))]
    for file, part in zip(files, parts(whole, ranks), strict=False):
        file["w"] = part
    joined = JoinedTensors(files)
    assert set(joined) == {"count", "w"}
    assert len(joined) == 2
    assert torch.equal(joined["count"], torch.tensor(3))
    assert joined.shape("count") == ()
    assert torch.equal(joined["w"], whole)
    assert joined.shape("w") == whole.shape
    for start, stop in itertools.combinations_with_replacement(range(8), 2):
        assert torch.equal(joined.rows("w", range(start, stop)), whole[start:stop])
