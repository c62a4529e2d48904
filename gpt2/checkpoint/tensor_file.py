"""Safetensors files written one tensor at a time, and hashed while they are written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt2.config import faults

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
#: Bytes that are hashed and written at once: small enough to stay in the processor's cache.
_PIECE = 2**20


class LazyTensors(Mapping[str, Tensor]):
    """Tensors that are made whenever they are asked for, and not kept."""

    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Write `tensors` to a new file, fsynced; return its size in bytes and its SHA-256.

    `metadata` are texts for the header. The library's own writer needs all tensors on the host at
    once; this one holds only the largest. Each tensor is asked for twice. Raises OSError (disk
    full, read-only) and leaves a partial file behind.
    """
    text, _ = _header(tensors, metadata)
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        for head in (len(text).to_bytes(8, "little"), text):
            digest.update(head)
            size += file.write(head)
        for tensor in tensors.values():
            faults.failpoint("checkpoint.tensor")
            data = _bytes(tensor)
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                digest.update(piece)
                size += file.write(piece)
        file.flush()
        faults.failpoint("checkpoint.sync")
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def file_size(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Return the bytes that write_tensors would write; tensors may be on the device meta."""
    text, data = _header(tensors, metadata)
    return 8 + len(text) + data


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> tuple[bytes, int]:
    """Return the header of a file, padded to 8 bytes, and the bytes of data after it."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8), offset


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU.

    Raises ValueError when it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
