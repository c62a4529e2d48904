"""One split on its way to disk: sharded, hashed while it is written, resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gpt2.config import faults
from gpt2.data.memmap import DTYPE, Ids
from gpt2.data.meta import Shard, Split, shard_names

SHARD = 100_000_000  # tokens: 200 MB
_READ = 1 << 20  # bytes


class ShardWriter:
    """Appends the ids of a split to shards of SHARD tokens in `folder`, the last one shorter.

    `lengths` (vocab_size,) are the text bytes of each id. The shards do not depend on the sizes of
    the writes.
    """

    def __init__(self, folder: Path, split: str, lengths: NDArray[np.int64]) -> None:
        self._folder, self._split, self._lengths = folder, split, lengths
        self._whole = hashlib.sha256()
        self._shards: list[Shard] = []  # the complete ones
        self._file: BinaryIO | None = None
        self._open = Shard("", 0, 0, "")
        self._hash = hashlib.sha256()
        self._size = SHARD

    @property
    def tokens(self) -> int:
        """Return the tokens written so far."""
        return sum(shard.tokens for shard in self.shards())

    @property
    def text_bytes(self) -> int:
        """Return the UTF-8 bytes of the text of those tokens."""
        return sum(shard.bytes for shard in self.shards())

    def write(self, ids: Ids) -> None:
        """Append ids (n,), starting new shards as they fill up.

        Raises OSError.
        """
        while len(ids):
            faults.failpoint("data.write")
            part, ids = ids[: self._room()], ids[self._room() :]
            raw = part.astype(DTYPE, copy=False).tobytes()
            self._target().write(raw)
            self._hash.update(raw)
            self._whole.update(raw)
            self._count(len(part), int(self._lengths[part].sum()))
            if not self._room():
                self._complete()

    def shards(self) -> list[Shard]:
        """Return the shards so far; the last may not be full."""
        if self._file is None:
            return list(self._shards)
        return [*self._shards, dataclasses.replace(self._open, sha256=self._hash.hexdigest())]

    def sync(self) -> None:
        """Flush what was written to disk.

        Raises OSError.
        """
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the open file."""
        if self._file is not None:
            self._file.close()

    def finish(self) -> Split:
        """Finish the last shard and return the split; a single shard has no number in its name."""
        if self._file is not None:
            self._complete()
        found = self._shards
        return Split(
            sum(shard.tokens for shard in found),
            sum(shard.bytes for shard in found),
            self._whole.hexdigest(),
            tuple(found) if len(found) > 1 else (),
        )

    def restore(self, shards: Sequence[Shard]) -> None:
        """Resume after `shards`, a result of shards(); drop what was written after them.

        They are hashed again. Raises ValueError for one that has changed, and OSError for one that
        cannot be read.
        """
        for shard in shards:
            self._open, self._hash = dataclasses.replace(shard, sha256=""), hashlib.sha256()
            self._file = (self._folder / shard.file).open("r+b")
            left = shard.tokens * DTYPE.itemsize
            while left and (raw := self._file.read(min(left, _READ))):
                left -= len(raw)
                self._hash.update(raw)
                self._whole.update(raw)
            if left or self._hash.hexdigest() != shard.sha256:
                self.close()
                raise ValueError(f"{shard.file} is not what was written")
            self._file.truncate()
            if not self._room():
                self._complete()

    def _target(self) -> BinaryIO:
        if self._file is None:
            name = shard_names(self._split, len(self._shards) + 1)[-1]
            self._open, self._hash = Shard(name, 0, 0, ""), hashlib.sha256()
            self._file = (self._folder / name).open("wb")
        return self._file

    def _room(self) -> int:
        return self._size - (self._open.tokens if self._file is not None else 0)

    def _count(self, tokens: int, text_bytes: int) -> None:
        self._open = dataclasses.replace(
            self._open, tokens=self._open.tokens + tokens, bytes=self._open.bytes + text_bytes
        )

    def _complete(self) -> None:
        """Flush the open shard to disk and add it to the complete ones."""
        self.sync()
        done = self.shards()
        self.close()
        self._file, self._shards = None, done
