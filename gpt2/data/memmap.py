"""Token ids in one or several files, read as one array without copying."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from gpt2.config.errors import Exit, UserError

DTYPE = np.dtype("<u2")

Ids = NDArray[np.uint16]


class IdArray(Protocol):
    """The operations on an array of ids (n,) that readers need."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, index: int, /) -> np.uint16: ...

    @overload
    def __getitem__(self, index: slice, /) -> Ids: ...


class ShardedIds:
    """The ids of several parts one after the other (n,): length, items, slices.

    A slice within one part is a view; one that crosses a border is a copy.
    """

    def __init__(self, parts: Sequence[Ids]) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        """Return the number of ids in all parts."""
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> np.uint16: ...

    @overload
    def __getitem__(self, index: slice) -> Ids: ...

    def __getitem__(self, index: int | slice) -> np.uint16 | Ids:
        """Return one id, or those of a slice with step 1."""
        if isinstance(index, int):
            place = range(len(self))[index]  # raises IndexError as an array does
            return np.uint16(self._slice(place, place + 1)[0])
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError(f"a slice of shards has step 1, not {step}")
        return self._slice(start, max(start, stop))

    def _slice(self, start: int, stop: int) -> Ids:
        first = min(bisect.bisect_right(self._ends, start), len(self._parts) - 1)
        found = []
        for part, end in zip(self._parts[first:], self._ends[first:], strict=True):
            begin = end - len(part)
            found.append(part[max(0, start - begin) : stop - begin])
            if stop <= end:
                break
        return found[0] if len(found) == 1 else np.concatenate(found)


def open_files(paths: Sequence[Path]) -> IdArray:
    """Map files of uint16, read-only: one file as a plain memory map, several as ShardedIds.

    Raises UserError (DATA) naming a file that cannot be mapped.
    """
    maps: list[Ids] = []
    for path in paths:
        try:
            maps.append(np.memmap(path, dtype=DTYPE, mode="r"))
        except OSError as error:
            raise UserError(
                f"{path} cannot be mapped into memory ({error.strerror}): some network and cloud"
                " drives cannot; copy the data to a local disk and name it by --data-dir",
                code=Exit.DATA,
            ) from error
    return maps[0] if len(maps) == 1 else ShardedIds(maps)
