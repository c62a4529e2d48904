"""Decide whether the machine has room for another cell: host and GPU memory, and disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from gpt2.config.errors import Exit, UserError
from gpt2.config.sizes import show_size
from scripts.study import machine
from scripts.study.folder import MatrixFolder
from scripts.study.memory import Memory, predicted_memory
from scripts.study.records import CellRecord, MatrixRecord

#: Factor on predicted memory: fragments, caches, the driver.
_HEADROOM = 1.1
_DISK_RESERVE = 2**28  # bytes
#: Seconds in which a started cell may still grow to its peak memory.
_GROWING = 120.0
#: Seconds between two checks of missing memory.
_LOOK_AGAIN = 5.0
#: Checkpoints on disk at once while a cell runs: two, the best, and one being written.
_WHILE_RUNNING = 4


class Admission:
    """Decides whether a cell can start now and, if not, says why."""

    def __init__(
        self, folder: MatrixFolder, matrix: MatrixRecord, say: Callable[[str], None]
    ) -> None:
        self._folder, self._matrix, self._say = folder, matrix, say
        self._waiting: dict[str, float] = {}  # device -> since when
        self._again: dict[str, float] = {}  # device -> time of the next check
        self.refresh()

    def refresh(self) -> None:
        """Read the memory of finished cells, and check again now."""
        self._again.clear()
        self._known = predicted_memory(self._folder, self._matrix.cells)

    def need(self, kind: str) -> Memory | None:
        """Return the expected peak memory: of the kind, else the largest of any, else None."""
        if kind in self._known or not self._known:
            return self._known.get(kind)
        every = self._known.values()
        return Memory(max(m.host for m in every), max(m.device for m in every))

    def check_disk_before(self, left: Sequence[CellRecord]) -> None:
        """Raise UserError when the rest of the matrix cannot fit on the disk."""
        need, free = disk_need(self._matrix, left), machine.disk_free(self._folder.path)
        if need > free:
            raise UserError(
                f"{self._folder.path}: the matrix needs about {show_size(need)} of disk, and "
                f"{show_size(free)} are free: make room, choose another --out, or keep fewer "
                "checkpoints (MATRIX_KEEP, --keep none)"
            )

    def on_disk(self, running: int) -> bool:
        """Return whether the disk has room for another cell.

        Raises UserError if waiting cannot free any.
        """
        largest = max((cell.checkpoint_bytes for cell in self._matrix.cells), default=0)
        need = _WHILE_RUNNING * largest * (running + 1) + _DISK_RESERVE
        free = machine.disk_free(self._folder.path)
        if free < need and not running:
            raise UserError(
                f"{self._folder.path}: {show_size(free)} of disk are free, and a cell needs "
                f"{show_size(need)} while it runs: make room, then run the same command again",
                code=Exit.CHECKPOINT,
            )
        return free >= need

    def check_memory_before(self, left: Sequence[CellRecord]) -> None:
        """Raise UserError where a cell needs more memory than the machine has."""
        host, cards = machine.host_memory(), machine.gpus() if self._matrix.gpus else []
        for kind in dict.fromkeys(cell.kind for cell in left):
            need = self._known.get(kind, Memory(0, 0))
            budgets = [("the host", need.host, host.total)] if host else []
            budgets += [(f"GPU {g.index}", need.device, g.total) for g in cards if g.total]
            for what, wanted, there in budgets:
                if wanted > there:
                    raise UserError(
                        f"cells of {kind} take {show_size(wanted)}, and {what} has "
                        f"{show_size(there)}: a smaller --batch-size with more "
                        "--gradient-accumulation needs less",
                        code=Exit.MEMORY,
                    )

    def in_memory(
        self, kind: str, device: str, beside: Iterable[tuple[str, float]], idle: bool
    ) -> bool:
        """Return whether host and device have the memory for another cell of `kind`.

        `beside`: kind and age in seconds of the cells on this device. Raises UserError when the
        memory has been missing for longer than MATRIX_WAIT and nothing runs.
        """
        others, now = list(beside), time.monotonic()
        if now < self._again.get(device, 0.0):
            return False
        need = self.need(kind)
        if others and need is None:
            return False  # run alone, until one has shown its memory
        growing = [self.need(other) for other, age in others if age < _GROWING]
        lack = self._lack(need, [memory for memory in growing if memory], device)
        if lack is None:
            if self._waiting.pop(device, None):
                self._say(f"{_called(device)} has memory again")
            return True
        self._again[device] = now + _LOOK_AGAIN
        if not others:  # else a cell of ours will end, and free its memory
            self._wait(lack, device, now, idle)
        return False

    def _lack(self, need: Memory | None, growing: list[Memory], device: str) -> str | None:
        host = machine.host_memory()
        if host and need:
            # train.py refuses to start with less free memory.
            wanted = int(_HEADROOM * (need.host + sum(m.host for m in growing))) + host.floor
            if wanted > host.available:
                there = show_size(host.available)
                return f"{there} of host memory are available, a cell needs {show_size(wanted)}"
        gpu = next((g for g in machine.gpus() if g.index == device), None) if device else None
        if gpu is None or gpu.total is None or gpu.free is None:
            return None
        if need is not None and need.device:
            wanted = int(_HEADROOM * (need.device + sum(m.device for m in growing)))
        else:
            wanted = gpu.total // 2  # of an unknown cell: most of the card must be free
        if wanted <= gpu.free:
            return None
        users = machine.gpu_users(gpu.uuid)
        return (
            f"GPU {device} has {show_size(gpu.free)} of {show_size(gpu.total)} free, a cell needs "
            f"{show_size(wanted)}" + (f" ({users})" if users else "")
        )

    def _wait(self, lack: str, device: str, now: float, idle: bool) -> None:
        limit = self._matrix.wait
        since = self._waiting.setdefault(device, now)
        if now - since >= limit and idle:
            raise UserError(
                f"{lack}; waited {limit} s for it (MATRIX_WAIT): free it, then run the same "
                "command again",
                code=Exit.MEMORY,
            )
        if since == now:
            self._say(f"waiting up to {limit} s: {lack}")


def disk_need(matrix: MatrixRecord, left: Sequence[CellRecord]) -> int:
    """Return the bytes that the cells `left` will take: kept checkpoints, and running cells."""
    kept = {"none": 0, "all": _WHILE_RUNNING - 1}.get(matrix.keep, 1)
    stays = round(sum(kept * cell.checkpoint_bytes * matrix.chance(cell) for cell in left))
    largest = max((cell.checkpoint_bytes for cell in left), default=0)
    return stays + _WHILE_RUNNING * largest * min(matrix.slots, len(left)) + _DISK_RESERVE


def _called(device: str) -> str:
    return f"GPU {device}" if device else "the host"
