"""The sparse form of weights: packed bits and the nonzero values, exact to the bit.

A safetensors file that stores each tensor in the smaller of two forms: dense under its NAME, or as

    NAME.bits    (ceil(n / 8),) uint8, one bit for each of its n entries in row-major order, the
                 lowest of a byte first: set where the entry is stored
    NAME.values  (k,) the stored entries, in that order

An entry is left out when all of its bits are zero, so a negative zero is stored. With a share s
left out, a matrix in fp32 takes 1/32 + (1 - s) of its dense bytes, in bf16 1/16 + (1 - s). The
header holds the shape and the SHA-256 of every dense tensor; a tensor that differs is never
returned.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt2.config.errors import Exit, UserError
from gpt2.files.json import parse

VERSION = "1"
_KEY, _TENSORS = "gpt2.sparse", "gpt2.tensors"
_BITS, _VALUES = ".bits", ".values"
_DIGEST_LENGTH = 64
_WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str]]:
    """Return the content of a sparse file of `tensors`: makers by name, and its header texts.

    Each call of a maker builds its tensor, so that the writer holds one at a time.
    """
    makers: dict[str, Callable[[], Tensor]] = {}
    described: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        described[name] = {"shape": list(tensor.shape), "sha256": _digest(tensor)}
        if _entries(tensor) is not None:
            makers[name + _BITS] = partial(_of, tensors, name, bits_of)
            makers[name + _VALUES] = partial(_of, tensors, name, values_of)
        else:
            makers[name] = partial(tensors.__getitem__, name)
    return makers, _texts(described)


def packed_form(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of pack's makers on the device meta, and texts as long as pack's.

    This gives the size of a sparse file, without building or hashing it.
    """
    form: dict[str, Tensor] = {}
    described: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        described[name] = {"shape": list(tensor.shape), "sha256": "0" * _DIGEST_LENGTH}
        stored = _entries(tensor)
        if stored is not None:
            bits = -(-tensor.numel() // 8)
            form[name + _BITS] = torch.empty(bits, dtype=torch.uint8, device="meta")
            form[name + _VALUES] = torch.empty(stored, dtype=tensor.dtype, device="meta")
        else:
            form[name] = tensor.detach().to("meta")
    return form, _texts(described)


def _entries(tensor: Tensor) -> int | None:
    """Return how many entries of a tensor would be stored; None where dense is smaller."""
    count, width, stored = tensor.numel(), tensor.element_size(), int(_stored(tensor).sum())
    return stored if -(-count // 8) + stored * width < count * width else None


def _texts(described: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    tensors = json.dumps(described, separators=(",", ":"))
    return {"format": "pt", _KEY: VERSION, _TENSORS: tensors}


def _of(tensors: Mapping[str, Tensor], name: str, part: Callable[[Tensor], Tensor]) -> Tensor:
    return part(tensors[name])


def bits_of(tensor: Tensor) -> Tensor:
    """Return the packed bits (ceil(n / 8),) of a tensor with n entries."""
    flags = _stored(tensor).numpy()
    return torch.from_numpy(np.packbits(flags, bitorder="little"))


def values_of(tensor: Tensor) -> Tensor:
    """Return the stored entries (k,) of a tensor, in row-major order."""
    return _flat(tensor)[_stored(tensor)]


def restored(bits: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor of `shape` from which bits_of and values_of came.

    Raises ValueError where the three do not fit together.
    """
    count = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),) or values.dim() != 1:
        raise ValueError(f"bits {tuple(bits.shape)} are not those of a tensor of shape {shape}")
    flags = np.unpackbits(bits.numpy(), count=count, bitorder="little")
    mask = torch.from_numpy(flags).view(torch.bool)
    if int(mask.sum()) != values.numel():
        raise ValueError(f"{int(mask.sum())} bits are set for {values.numel()} values")
    dense = torch.zeros(count, dtype=values.dtype)
    dense[mask] = values
    return dense.view(shape)


def is_sparse(path: Path) -> bool:
    """Return whether `path` is a safetensors file of this form; False if unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


class SparseFile(Mapping[str, Tensor]):
    """The dense tensors of a sparse file on the CPU, each restored when it is asked for.

    Raises UserError (CHECKPOINT), then or when it is opened, if the file was changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._verified: set[str] = set()
        try:
            self._file = safe_open(path, framework="pt")
            texts = self._file.metadata() or {}
            self._described: dict[str, dict[str, Any]] = dict(parse(texts[_TENSORS]))
            version = texts[_KEY]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"its header cannot be read ({error})") from error
        if version != VERSION:
            raise UserError(
                f"{path} has the sparse format {version}, this program reads {VERSION}",
                code=Exit.CHECKPOINT,
            )
        self._held = set(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        about = self._described[name]
        try:
            tensor = self._read(name, tuple(about["shape"]))
            right = name in self._verified or _digest(tensor) == about["sha256"]
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise self._damaged(f"{name} cannot be restored ({error})") from error
        if not right:
            raise self._damaged(f"the SHA-256 of {name} is not the one written")
        self._verified.add(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._described)

    def __len__(self) -> int:
        return len(self._described)

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name in self._held:
            return self._file.get_tensor(name).view(shape)  # type: ignore[no-any-return]
        bits, values = (self._file.get_tensor(name + part) for part in (_BITS, _VALUES))
        return restored(bits, values, shape)

    def _damaged(self, problem: str) -> UserError:
        return UserError(f"{self._path} is damaged: {problem}", code=Exit.CHECKPOINT)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1)


def _stored(tensor: Tensor) -> Tensor:
    """Return which entries (n,) have any bit set."""
    return _flat(tensor).view(_WHOLE_NUMBERS[tensor.element_size()]) != 0


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(_flat(tensor).view(torch.uint8).numpy().data).hexdigest()
