"""Out-of-memory errors: how to recognise them, and what to tell the user."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gpt2.config.errors import Exit, UserError
from gpt2.config.sizes import show_size
from gpt2.config.typed import TrainConfig
from gpt2.machine import device as machine
from gpt2.machine.shards import local_shard

#: Messages of allocators that raise a plain RuntimeError: the CPU's, MPS, CUDA outside torch's
#: cache, and cuBLAS and hipBLAS without room for a handle or workspace.
_SAID = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "HIPBLAS_STATUS_ALLOC_FAILED",
)
#: Types that an out-of-memory error can have; a GPU's is a RuntimeError.
ERRORS = (RuntimeError, MemoryError)


def is_exhaustion(error: BaseException) -> bool:
    """Return whether an error means that host or device memory was exhausted."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def smaller_batch(batch: int) -> int | None:
    """Return the largest micro-batch below `batch` that divides it; None for 1."""
    return next((batch // n for n in range(2, batch + 1) if batch % n == 0), None)


def way_out(training: TrainConfig) -> str:
    """Return the flags for the same run in less memory, or what else needs less."""
    batch = training.batch_size
    if (less := smaller_batch(batch)) is None:
        return "a smaller --block-size or --model needs less"
    more = training.gradient_accumulation * (batch // less)
    return f"--batch-size {less} --gradient-accumulation {more} is the same run in less memory"


@contextmanager
def explained(message: str) -> Iterator[None]:
    """Turn out of memory into a UserError with `message`."""
    try:
        yield
    except ERRORS as error:
        if not is_exhaustion(error):
            raise
        raise UserError(message, code=Exit.MEMORY) from error


def release() -> None:
    """Free what nothing refers to any more.

    Call it after the `except` that caught the error: until then its traceback keeps every frame,
    and with them the tensors.
    """
    gc.collect()
    machine.give_back_freed_memory()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # the peak of the failed attempt would count
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def breakdown(optimizer: torch.optim.Optimizer, device: torch.device) -> str:
    """Describe the memory of a run's parts, this rank's share of it, and the peak so far."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    states = list(optimizer.state.values())
    state = [t for held in states if isinstance(held, dict) for t in held.values()]
    parts = {
        "parameters": _bytes(parameters),
        "gradients": _bytes(gradients),
        "optimizer state": _bytes([t for t in state if isinstance(t, Tensor)]),
    }
    peak = machine.peak_memory(device)
    if device.type == "cuda":
        parts["at the peak, on the device,"] = peak["peak_device_bytes"]
    else:
        parts["at the peak, on the host,"] = peak["peak_host_bytes"]
    return ", ".join(f"{name} {show_size(size)}" for name, size in parts.items())


def _bytes(tensors: list[Tensor]) -> int:
    return sum(local_shard(tensor).nbytes for tensor in tensors)
