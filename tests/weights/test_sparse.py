"""The sparse form: exact to the bit, as small as its formula, and refused when it is damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from gpt2.checkpoint.tensor_file import LazyTensors, write_tensors
from gpt2.config.errors import Exit, UserError
from gpt2.weights.sparse import SparseFile, bits_of, is_sparse, pack, restored, values_of


def pruned(share: float, *shape: int, seed: int = 1) -> Tensor:
    """A matrix of which exactly round(share * n) entries are zero."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(*shape, generator=generator)
    order = torch.randperm(matrix.numel(), generator=generator)
    matrix.view(-1)[order[: round(share * matrix.numel())]] = 0.0
    return matrix


def odd_numbers() -> Tensor:
    """Zeros of both signs, the smallest and largest numbers, and some that are none."""
    patterns = [0, 1, -1, 0x7FFFFFFF, -0x80000000, 0x7F800000, 0x00800000, 0x7F7FFFFF, 0]
    return torch.tensor([*patterns, *[0] * 20], dtype=torch.int32).view(torch.float32)


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def by_hand(tensor: Tensor) -> tuple[bytes, list[bytes]]:
    """The packed bits and the stored entries, entry by entry."""
    width = tensor.element_size()
    entries = [raw(tensor)[i : i + width] for i in range(0, len(raw(tensor)), width)]
    bits = bytearray(-(-len(entries) // 8))
    for position, entry in enumerate(entries):
        if any(entry):
            bits[position // 8] |= 1 << (position % 8)
    return bytes(bits), [entry for entry in entries if any(entry)]


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    makers, texts = pack(tensors)
    write_tensors(path, LazyTensors(makers), texts)
    return path


@pytest.mark.parametrize(
    "tensor",
    [
        pruned(0.5, 5, 7),
        pruned(0.9, 16, 8).t(),
        pruned(1.0, 3, 3),
        pruned(0.0, 4, 4),
        odd_numbers(),
        pruned(0.6, 6, 9).to(torch.bfloat16),
        pruned(0.6, 13).to(torch.float16),
        pruned(0.6, 13).double(),
        torch.zeros(0, 3),
    ],
)
def test_a_tensor_is_packed_as_by_hand_and_restored_to_the_bit(tensor: Tensor) -> None:
    bits, values = by_hand(tensor)
    assert raw(bits_of(tensor)) == bits
    assert raw(values_of(tensor)) == b"".join(values)
    back = restored(bits_of(tensor), values_of(tensor), tuple(tensor.shape))
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert raw(back) == raw(tensor)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 32), (torch.bfloat16, 16)])
def test_a_matrix_takes_its_bits_and_its_values(
    share: float, dtype: torch.dtype, width: int, tmp_path: Path
) -> None:
    matrix = pruned(share, 40, 80).to(dtype)
    path = written(tmp_path / "file", {"matrix": matrix})
    with safe_open(path, framework="pt") as file:
        parts = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    stored = sum(part.numel() * part.element_size() for part in parts)
    assert stored / (matrix.numel() * width / 8) == pytest.approx(1 / width + (1 - share))


def test_each_tensor_takes_the_smaller_form(tmp_path: Path) -> None:
    # A bit for each entry pays from one zero in 32 on.
    tensors = {
        "full": pruned(0.0, 8, 8),
        "two": pruned(2 / 64, 8, 8),
        "three": pruned(3 / 64, 8, 8),
        "empty": torch.zeros(0, 3),
    }
    with safe_open(written(tmp_path / "file", tensors), framework="pt") as file:
        assert sorted(file.keys()) == ["empty", "full", "three.bits", "three.values", "two"]
        described = json.loads(file.metadata()["gpt2.tensors"])
    for name, tensor in tensors.items():
        assert described[name]["sha256"] == hashlib.sha256(raw(tensor)).hexdigest()


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    tensors = {"b": pruned(0.7, 9, 5), "a": pruned(0.0, 7), "odd": odd_numbers()}
    path = written(tmp_path / "file", tensors)
    found = SparseFile(path)
    assert is_sparse(path)
    assert list(found) == list(tensors)
    for _ in range(2):
        for name, tensor in tensors.items():
            assert found[name].shape == tensor.shape
            assert raw(found[name]) == raw(tensor)


def test_another_safetensors_file_is_not_sparse(tmp_path: Path) -> None:
    write_tensors(tmp_path / "plain", {"a": torch.ones(3)}, {"format": "pt"})
    (tmp_path / "text").write_text("no tensors")
    assert not is_sparse(tmp_path / "plain")
    assert not is_sparse(tmp_path / "text")
    assert not is_sparse(tmp_path / "nowhere")
    with pytest.raises(UserError, match="plain is damaged: its header cannot be read"):
        SparseFile(tmp_path / "plain")


def read_all(path: Path) -> dict[str, bytes]:
    return {name: raw(tensor) for name, tensor in SparseFile(path).items()}


@pytest.mark.slow
def test_no_flipped_bit_passes(tmp_path: Path) -> None:
    tensors = {"matrix": pruned(0.5, 3, 4), "vector": pruned(0.0, 2)}
    path = written(tmp_path / "file", tensors)
    good = path.read_bytes()
    wanted = read_all(path)
    errors = []
    for position in range(len(good)):
        for bit in (0, 6):
            data = bytearray(good)
            data[position] ^= 1 << bit
            path.write_bytes(bytes(data))
            try:
                found = read_all(path)
            except UserError as error:
                errors.append(error)
            else:
                # What does not say what a tensor is: a name, or the text "format": "pt".
                assert list(found.values()) == list(wanted.values())
    assert len(errors) > 1.8 * len(good)
    assert all(error.code == Exit.CHECKPOINT and str(path) in str(error) for error in errors)


def test_a_tail_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "file", {"matrix": pruned(0.5, 3, 4)})
    good = path.read_bytes()
    for keep in (0, 7, 100, len(good) - 1):
        path.write_bytes(good[:keep])
        with pytest.raises(UserError, match="file is damaged"):
            read_all(path)


def test_a_newer_form_is_refused(tmp_path: Path) -> None:
    makers, texts = pack({"matrix": pruned(0.5, 3, 4)})
    write_tensors(tmp_path / "file", LazyTensors(makers), texts | {"gpt2.sparse": "2"})
    with pytest.raises(UserError, match="has the sparse format 2, this program reads 1"):
        SparseFile(tmp_path / "file")


@pytest.mark.parametrize(
    ("bits", "values", "said"),
    [
        (torch.tensor([7], dtype=torch.uint8), torch.ones(2), "3 bits are set for 2 values"),
        (torch.tensor([3, 0], dtype=torch.uint8), torch.ones(2), "are not those of a tensor"),
        (torch.tensor([3.0]), torch.ones(2), "are not those of a tensor"),
        (torch.tensor([3], dtype=torch.uint8), torch.ones(2, 1), "are not those of a tensor"),
    ],
)
def test_parts_that_do_not_go_together(bits: Tensor, values: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        restored(bits, values, (2, 2))
