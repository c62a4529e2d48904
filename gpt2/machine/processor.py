"""The processor of this machine: its name, its cores, and its bf16 instructions."""

from __future__ import annotations

import os
import platform
import sys
import threading
from contextlib import suppress
from pathlib import Path

#: Linux's description of the processor.
_INFORMATION = Path("/proc/cpuinfo")
#: Names of instructions that compute in bf16, on x86 and on ARM.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def processor_name() -> str:
    """Return the processor's name for people."""
    for line in _information().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def bf16_instructions() -> list[str]:
    """Return the names of the processor's bf16 instructions, as far as Linux reports them."""
    return sorted(_BF16.intersection(_information().split()))


def has_bf16() -> bool:
    """Return whether the processor has bf16 instructions, as far as Linux reports them."""
    return bool(bf16_instructions())


def loaded() -> bool:
    """Return whether other work kept more than half of the cores busy in the last minute."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * cores()


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float:
    """Return how many threads wanted to run in the last minute; 0 where unknown.

    Linux does not report it where /proc is not mounted.
    """
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def give_way(nice: int) -> None:
    """Lower the calling thread's priority; do nothing on systems without priorities of threads.

    A sandbox may forbid it; then the thread competes with the others.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _information() -> str:
    try:
        return _INFORMATION.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
