"""The machine of a run: device, threads, determinism, and its entries in run.json."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gpt2.config.errors import UserError
from gpt2.config.library import LIBRARIES
from gpt2.config.typed import MachineConfig
from gpt2.machine.processor import processor_name

#: Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

#: Freed blocks smaller than this, in bytes, stay with a CPU process: see keep_freed_memory.
KEPT = 32 * 2**20
#: Largest CUDA context in bytes; more is assumed to belong to other processes.
_CONTEXT_MOST = 2**30
#: Files with the versions of NVIDIA's and AMD's kernel drivers.
_DRIVERS = (Path("/sys/module/nvidia/version"), Path("/sys/module/amdgpu/version"))
_PACKAGE = Path(__file__).resolve().parents[1]

#: Training's share of the matrix-product speed on a CPU, measured for 1 to 30 M weights.
_CPU_EFFICIENCY = 0.5


def resolve_device(asked: str, index: int | None = None) -> torch.device:
    """Return the torch device for `asked`.

    `index` is the number of the GPU, for `cuda`. A number other than 0 becomes the current device,
    which random states, caches and compiled kernels use. Raises UserError when the device is
    missing.
    """
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device cuda: torch {torch.__version__} sees no GPU; "
            "use --device auto, or install a torch built for your GPU"
        )
    if asked == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch sees no Apple GPU; use --device auto")
    if asked == "cuda" and index:
        count = torch.cuda.device_count()
        if index >= count:
            there = "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise UserError(f"--device cuda:{index}: torch sees {there}; use one of these")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        return device
    return torch.device(asked)


def prepare(config: MachineConfig, precision: str, seed: int) -> None:
    """Set threads, determinism, matrix precision and the seed of torch's generators."""
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    if config.deterministic:
        # cuBLAS reads this when it starts; it is not an option of ours.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    # fp32 means fp32: TF32 is used only for what autocast leaves in fp32.
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.manual_seed(seed)


@contextmanager
def exact_products() -> Iterator[None]:
    """Return the context in which fp32 products never use TF32, whatever `prepare` set.

    prepare() allows TF32 in 16-bit runs; other programs do not.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def keep_freed_memory(device: torch.device) -> None:
    """Keep freed blocks below 32 MiB in the process, for the next step on a CPU.

    By default glibc returns them as soon as it can. A step then spends some percent of its time on
    page faults to get the same memory again. Larger blocks are returned as before: keeping them
    would leave holes, and raise the peak. Other C libraries are not changed.
    """
    libc = ctypes.CDLL(None)
    if device.type == "cpu" and hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, KEPT)
        libc.mallopt(_TRIM_THRESHOLD, -1)


def give_back_freed_memory() -> None:
    """Return to the system, once, what keep_freed_memory has kept."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def determinism(device: torch.device, compiled: bool, deterministic: bool, mixed: bool) -> str:
    """Return how repeatable a run is: `bitwise` on this machine and thread count, or `statistical`.

    `mixed`: time ends the run, or its conditions changed. MPS is statistical, because its random
    generator is not in a checkpoint; so are compiled kernels, because another compilation may add
    in another order.
    """
    if mixed or compiled or device.type == "mps":
        return "statistical"
    if deterministic or device.type == "cpu":
        return "bitwise"
    return "statistical"


def describe(device: torch.device) -> dict[str, Any]:
    """Return run.json's entries about the machine and the software."""
    packages = ["torch", "numpy", "tiktoken", "safetensors", "kconfiglib"]
    packages += [library.module for library in LIBRARIES.values() if library.module in sys.modules]
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": sys.version.split()[0],
            **{name: metadata.version(name) for name in packages},
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        },
        "gpu": _gpu(device) if device.type == "cuda" else None,
        "commit": _commit(),
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    """Return run.json's entries about a GPU: capability, memory in bytes, units and driver."""
    card = torch.cuda.get_device_properties(device)
    drivers = [path.read_text().strip() for path in _DRIVERS if path.exists()]
    return {
        "capability": f"{card.major}.{card.minor}",
        "memory_bytes": card.total_memory,
        "multiprocessors": card.multi_processor_count,
        "driver": drivers[0] if drivers else None,
    }


def device_name(device: torch.device) -> str:
    """Return the device's name for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


def peak_memory(device: torch.device) -> dict[str, int]:
    """Return the process's peak memory in bytes: of the host, and of a CUDA device.

    peak_device_bytes: tensors. peak_process_bytes: the allocator's reserve plus the context with
    its libraries. The context is the rest of the used memory, up to _CONTEXT_MOST, even if other
    processes hold a part of that.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type != "cuda":
        return {"peak_host_bytes": host, "peak_device_bytes": 0, "peak_process_bytes": 0}
    free, total = torch.cuda.mem_get_info(device)
    context = max(0, total - free - torch.cuda.memory_reserved(device))
    return {
        "peak_host_bytes": host,
        "peak_device_bytes": torch.cuda.max_memory_allocated(device),
        "peak_process_bytes": torch.cuda.max_memory_reserved(device) + min(context, _CONTEXT_MOST),
    }


def predict_cpu_seconds(flops: float) -> float:
    """Return roughly how many seconds `flops` of training take here, from a product of 0.1 s."""
    return flops / (_CPU_EFFICIENCY * _product_flops_per_second())


@functools.cache
def _product_flops_per_second() -> float:
    """Measure the product, once: a process trains with one number of threads."""
    a = torch.full((768, 768), 1e-3)  # not drawn: the random generators belong to the run
    a @ a
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < 0.1:
        a @ a
        count += 1
    return max(1, count) * 2 * 768**3 / taken


def _commit() -> str | None:
    """Return the commit of the repository, with -dirty if it is changed; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=_PACKAGE, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
