"""The tokens of a step: a pure function of (seed, step, micro-step, rank), in epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from threading import Lock
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.data.integrity import WatchedFiles
from gpt2.data.memmap import IdArray
from gpt2.data.tokens import TokenFile
from gpt2.machine.out_of_memory import is_exhaustion
from gpt2.model.loss import IGNORED

_CACHED_EPOCHS = 2  # a batch may span two epochs
_AHEAD = 2  # batches prefetched per thread
_NO_RUNS_EPOCH = 2**31  # epoch number reserved for calibration


def sequences_per_epoch(tokens: int, block_size: int) -> int:
    """Return how many sequences of `block_size` inputs and their targets fit in `tokens`."""
    return (tokens - 1) // block_size


def steps_for(epochs: float, tokens: int, block_size: int, effective_batch: int) -> int:
    """Return the steps in which every sequence is seen at least `epochs` times.

    `effective_batch` is the number of sequences of a step over all micro-steps and ranks.
    """
    # Exact arithmetic: 0.1 epochs of 30 sequences are 3, not 3.0000000000000004.
    wanted = Fraction(repr(epochs)) * sequences_per_epoch(tokens, block_size)
    return math.ceil(wanted / effective_batch)


class EpochOrder:
    """The order of an epoch's sequences: a pure function of (seed, epoch). Thread-safe.

    Every epoch draws an offset into the text, so that the borders between sequences move. There are
    (tokens - 1) mod block size + 1 offsets: only one where the block size divides tokens - 1.
    """

    def __init__(self, tokens: int, block_size: int, seed: int) -> None:
        self.sequences = sequences_per_epoch(tokens, block_size)
        assert 0 < self.sequences < 2**31, self.sequences
        self._block_size = block_size
        self._spare = (tokens - 1) % block_size
        self._seed = seed
        self._orders: dict[int, tuple[int, NDArray[np.int32]]] = {}
        self._lock = Lock()

    def starts(self, first: int, count: int) -> list[int]:
        """Return the token offsets of `count` samples of the run, from sample `first` on."""
        samples = (divmod(index, self.sequences) for index in range(first, first + count))
        return [self._start(epoch, place) for epoch, place in samples]

    def _start(self, epoch: int, place: int) -> int:
        offset, order = self._order(epoch)
        return offset + int(order[place]) * self._block_size

    def _order(self, epoch: int) -> tuple[int, NDArray[np.int32]]:
        with self._lock:
            if epoch not in self._orders:
                while len(self._orders) >= _CACHED_EPOCHS:
                    del self._orders[min(self._orders)]
                self._orders[epoch] = self._draw(epoch)
            return self._orders[epoch]

    def _draw(self, epoch: int) -> tuple[int, NDArray[np.int32]]:
        # numpy guarantees the raw stream of a bit generator across versions, but not shuffle().
        stream = np.random.PCG64(np.random.SeedSequence([self._seed, epoch]))
        offset = stream.random_raw() % (self._spare + 1)
        keys = stream.random_raw(self.sequences)
        return offset, np.argsort(keys, kind="stable").astype(np.int32)


@dataclass(frozen=True)
class BatchOrder:
    """The numbers that decide which sequences are in a micro-batch.

    A step on each of `world_size` ranks is `gradient_accumulation` micro-steps of `batch_size`
    sequences of `block_size` tokens. The sequences of a step depend on `seed` and `effective_batch`
    only. So halving the batch size and doubling the accumulation keeps them, and so does splitting
    a step over ranks.
    """

    block_size: int
    batch_size: int
    gradient_accumulation: int
    seed: int
    rank: int = 0
    world_size: int = 1

    @property
    def effective_batch(self) -> int:
        """Return the sequences of a step, over all micro-steps and ranks."""
        return self.batch_size * self.gradient_accumulation * self.world_size

    def first_sample(self, step: int, micro: int) -> int:
        """Return the index, within the run, of the first sample of this rank's micro-batch."""
        before = micro * self.world_size + self.rank
        return step * self.effective_batch + before * self.batch_size


class TrainBatches:
    """Training batches by step and micro-step, prefetched by threads from one memory map.

    `num_workers` threads read ahead; with 0, each batch is read when asked for. The batches are the
    same.
    """

    def __init__(
        self,
        tokens: TokenFile | IdArray,
        order: BatchOrder,
        device: torch.device | str,
        num_workers: int,
    ) -> None:
        self._ids, self._files = _of(tokens)
        self._order = order
        self._epochs = EpochOrder(len(self._ids), order.block_size, order.seed)
        self._device = torch.device(device)
        self._ahead = num_workers * _AHEAD
        self._threads = ThreadPoolExecutor(num_workers, "batches") if num_workers else None
        self._pending: dict[tuple[int, int], Future[Tensor]] = {}

    @property
    def block_size(self) -> int:
        """Return the tokens of a sequence."""
        return self._order.block_size

    @property
    def sequences(self) -> int:
        """Return the sequences of an epoch."""
        return self._epochs.sequences

    @property
    def effective_batch(self) -> int:
        """Return the sequences of a step, over all micro-steps and ranks."""
        return self._order.effective_batch

    def train(self, step: int, micro: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of one micro-step, int64 (B, T) each, on the device.

        Raises the error of reading this batch, also when it was prefetched.
        """
        assert 0 <= micro < self._order.gradient_accumulation, micro
        future = self._pending.pop((step, micro), None)
        self._read_ahead(step, micro)
        pair = self._read(step, micro) if future is None else future.result()
        pair = _on_device(pair, self._device)
        return pair[0], pair[1]

    def close(self) -> None:
        """Stop the threads; batches can still be read afterwards, without them."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_ahead(self, step: int, micro: int) -> None:
        """Prefetch the batches that follow (step, micro), and cancel all others."""
        if self._threads is None:
            return
        accumulation = self._order.gradient_accumulation
        place = step * accumulation + micro + 1
        wanted = [divmod(place + i, accumulation) for i in range(self._ahead)]
        for key in self._pending.keys() - wanted:
            self._pending.pop(key).cancel()
        for key in wanted:
            if key not in self._pending:
                self._pending[key] = self._threads.submit(self._read, *key)

    def _read(self, step: int, micro: int) -> Tensor:
        """Read inputs and targets of a micro-step: a host tensor (2, B, T), pinned for CUDA."""
        faults.failpoint("data.batch")
        size, block = self._order.batch_size, self._order.block_size
        pair = np.empty((2, size, block), dtype=np.int64)
        starts = self._epochs.starts(self._order.first_sample(step, micro), size)
        self._files.check(starts, block + 1)
        for row, start in enumerate(starts):
            pair[0, row] = self._ids[start : start + block]
            pair[1, row] = self._ids[start + 1 : start + 1 + block]
        return _host_tensor(pair, self._device)


def validation_batches(
    tokens: TokenFile | IdArray,
    block_size: int,
    batch_size: int,
    device: torch.device | str,
    first: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the whole split once, in order, as inputs and targets int64 (B, T) on the device.

    Every token but the first is a target once. All batches have the same shape, so that compiled
    models are not recompiled; targets past the end of the text are IGNORED. The order does not
    depend on a seed. With `first`, start at that input; a multiple of `block_size` keeps the
    sequences the same.
    """
    ids, files = _of(tokens)
    place, per_batch, targets = torch.device(device), batch_size * block_size, len(ids) - 1
    for start in range(first, targets, per_batch):
        real = min(per_batch, targets - start)
        pair = np.zeros((2, per_batch), dtype=np.int64)
        pair[1, real:] = IGNORED
        files.check([start], real + 1)
        pair[0, :real] = ids[start : start + real]
        pair[1, :real] = ids[start + 1 : start + 1 + real]
        host = _host_tensor(pair.reshape(2, batch_size, block_size), place)
        both = _on_device(host, place)
        yield both[0], both[1]


def calibration_batches(
    tokens: TokenFile | IdArray,
    block_size: int,
    batch_size: int,
    count: int,
    seed: int,
    device: torch.device | str,
) -> Iterator[Tensor]:
    """Yield `count` different sequences of a training text, drawn by `seed`: int64 (B, T)."""
    ids, files = _of(tokens)
    place = torch.device(device)
    order = EpochOrder(len(ids), block_size, seed)
    assert count <= order.sequences, (count, order.sequences)
    starts = order.starts(_NO_RUNS_EPOCH * order.sequences, count)
    for first in range(0, count, batch_size):
        files.check(starts[first : first + batch_size], block_size)
        rows = [ids[start : start + block_size] for start in starts[first : first + batch_size]]
        yield _on_device(_host_tensor(np.stack(rows).astype(np.int64), place), place)


def _of(tokens: TokenFile | IdArray) -> tuple[IdArray, WatchedFiles]:
    """Return ids, and the files to check before reading them."""
    if isinstance(tokens, TokenFile):
        return tokens.ids, tokens.files
    return tokens, WatchedFiles()


def _on_device(host: Tensor, device: torch.device) -> Tensor:
    # Only pinned memory is kept until the copy ends: MPS would read freed memory.
    return host.to(device, non_blocking=device.type == "cuda")


def _host_tensor(array: NDArray[np.int64], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        if not is_exhaustion(error):
            raise
        # It is said in the words of a full device, which a smaller micro-batch would mend.
        raise UserError(
            "out of host memory: a batch cannot be pinned for the GPU, which itself is not full; "
            "end other programs, or raise the limit of locked memory (ulimit -l), and resume",
            code=Exit.MEMORY,
        ) from error
