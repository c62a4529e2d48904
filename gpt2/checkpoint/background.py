"""Writing checkpoints in the background: copies of their content, and the thread that writes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from gpt2.checkpoint.store import Checkpoint
from gpt2.machine.processor import give_way

#: Nice value of the thread: it only uses cores that training leaves idle.
_NICE = 19


class Copies:
    """Checkpoints copied to the host, each into the memory of the one before.

    New memory costs a page fault for every 4 KiB, which takes longer than the copying.
    """

    def __init__(self) -> None:
        self._model: dict[str, Tensor] = {}
        self._optim: dict[str, Tensor] = {}

    def of(self, made: Checkpoint) -> Checkpoint:
        """Return a copy of `made` that later steps do not change; it overwrites the last copy."""
        self._model = _copied(made.model, self._model)
        self._optim = _copied(made.optim, self._optim)
        return Checkpoint(made.step, self._model, self._optim, copy.deepcopy(made.state))


def _copied(tensors: Mapping[str, Tensor], held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy `tensors` into those of `held` with their shape and dtype, else into new ones."""
    copies = {}
    for name, tensor in tensors.items():
        place = held.pop(name, None)
        if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
            place = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        copies[name] = place.copy_(tensor.detach())
    return copies


class Background:
    """One task at a time in its own thread.

    The process does not end before the thread: a task that was started is completed.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(
            1, thread_name_prefix="checkpoint", initializer=give_way, initargs=(_NICE,)
        )
        self._task: Future[None] | None = None

    @property
    def over(self) -> bool:
        """Return whether a task has ended and not been waited for."""
        return self._task is not None and self._task.done()

    def start(self, task: Callable[[], None]) -> None:
        """Start `task`; the one before must have been waited for."""
        assert self._task is None
        self._task = self._pool.submit(task)

    def wait(self) -> None:
        """Wait for the task, if there is one.

        Raises the task's error, once.
        """
        task, self._task = self._task, None
        if task is not None:
            task.result()

    def close(self) -> None:
        """Stop the thread after its task."""
        self._pool.shutdown()
