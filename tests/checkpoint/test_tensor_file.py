"""Our safetensors files against the library's own reader."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpt2.checkpoint.tensor_file import read_tensors, write_tensors

TENSORS = {
    "matrix": torch.randn(3, 5),
    "transposed": torch.randn(4, 6).t(),
    "scalar": torch.tensor(7.0),
    "empty": torch.empty(0, 3),
    "half": torch.randn(7).to(torch.float16),
    "brain": torch.randn(2, 2).to(torch.bfloat16),
    "double": torch.randn(2).double(),
    "numbers": torch.arange(5),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "flags": torch.tensor([True, False, True]),
}


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    size, digest = write_tensors(path, TENSORS)
    assert size == path.stat().st_size
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for read in (load_file(path), read_tensors(path)):
        assert read.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)


@pytest.mark.parametrize("keep", [0, 4, 50, -1])
def test_a_short_file_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"file\.safetensors is damaged"):
        read_tensors(path)
