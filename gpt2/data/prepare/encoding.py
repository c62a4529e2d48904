"""Encode batches of text by several threads, in order, with a bounded number in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2.data.memmap import Ids
from gpt2.data.prepare.chunking import Batch, Position
from gpt2.data.splits import SPLITS

Encode = Callable[[str], Ids]


@dataclass(frozen=True)
class Encoded:
    """The ids of a batch.

    `ids` are by split. `ends` (documents, splits) counts, for each document that ends here, the
    tokens of this batch up to its end, by split. `position` and `empty` are the batch's.
    """

    ids: dict[str, Ids]
    ends: NDArray[np.int64]
    position: Position
    empty: int

    def until(self, document: int) -> Encoded:
        """Return the same, cut off after the end of document number `document`."""
        counts = dict(zip(self.ids, self.ends[document], strict=True))
        ids = {split: ids[: counts[split]] for split, ids in self.ids.items()}
        return Encoded(ids, self.ends[: document + 1], self.position, self.empty)


def encode_batches(
    batches: Iterable[Batch],
    encode: Encode,
    end: Ids | None,
    workers: int,
    splits: Sequence[str] = SPLITS,
) -> Generator[Encoded]:
    """Yield the ids of each batch in the order of the batches; `end` closes every document.

    `workers` threads encode (tiktoken releases the GIL); 0 or 1 is the calling thread. At most two
    batches per worker are in flight, so memory is bounded. Threads cannot outlive the process.
    Errors of encoding are raised here.
    """
    if workers <= 1:
        yield from (_encode(batch, encode, end, splits) for batch in batches)
        return
    flying: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(workers, "encode") as pool:
        try:
            for batch in batches:
                flying.append(pool.submit(_encode, batch, encode, end, splits))
                if len(flying) >= 2 * workers:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _encode(batch: Batch, encode: Encode, end: Ids | None, splits: Sequence[str]) -> Encoded:
    found: dict[str, list[Ids]] = {split: [] for split in splits}
    counts = dict.fromkeys(splits, 0)
    ends = []
    for text in batch.texts:
        for ids in (encode(text.text) if text.text else None, end if text.ends else None):
            if ids is not None:
                found[text.split].append(ids)
                counts[text.split] += len(ids)
        if text.ends:
            ends.append([counts[split] for split in splits])
    nothing = np.empty(0, dtype=np.uint16)
    return Encoded(
        {split: np.concatenate([nothing, *found[split]]) for split in splits},
        np.array(ends, dtype=np.int64).reshape(-1, len(splits)),
        batch.position,
        batch.empty,
    )
