"""Tensors spread over several files, each with some of the rows; read whole or in part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


class JoinedTensors(Mapping[str, Tensor]):
    """The tensors of `files`, where each file holds consecutive rows of a tensor.

    A tensor is joined whenever it is asked for, and not kept; a tensor in one file is not copied.
    The files are mapped: other rows are not read.
    """

    def __init__(self, files: Sequence[Mapping[str, Tensor]]) -> None:
        self._parts: dict[str, list[Tensor]] = {}
        for file in files:
            for name, part in file.items():
                self._parts.setdefault(name, []).append(part)

    def __getitem__(self, name: str) -> Tensor:
        parts = self._parts[name]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def shape(self, name: str) -> torch.Size:
        """Return the shape of a whole tensor."""
        parts = self._parts[name]
        if len(parts) == 1:
            return parts[0].shape
        return torch.Size([sum(part.size(0) for part in parts), *parts[0].shape[1:]])

    def rows(self, name: str, wanted: range) -> Tensor:
        """Return the consecutive rows `wanted` of a tensor."""
        found, start = [], 0
        for part in self._parts[name]:
            stop = start + part.size(0)
            first, last = max(start, wanted.start), min(stop, wanted.stop)
            if first < last:
                found.append(part[first - start : last - start])
            start = stop
        if not found:
            return self._parts[name][0][:0]
        return found[0] if len(found) == 1 else torch.cat(found)
