"""The processor of this machine: its name, its cores, and whether it computes in bf16."""

from __future__ import annotations

import os
import platform
import sys
import threading
from contextlib import suppress
from pathlib import Path

#: What Linux tells of the processor.
_INFORMATION = Path("/proc/cpuinfo")
#: Names of the instructions that compute in bf16, of x86 and of ARM.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def processor_name() -> str:
    """Return the processor's name for people."""
    for line in _information().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def bf16_instructions() -> list[str]:
    """Return the names of the processor's instructions for bf16, as far as Linux tells."""
    return sorted(_BF16.intersection(_information().split()))


def has_bf16() -> bool:
    """Return whether the processor has instructions for bf16, as far as Linux tells."""
    return bool(bf16_instructions())


def loaded() -> bool:
    """Return whether other work keeps more than half of the cores busy, by the last minute."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * cores()


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float:
    """Return how many threads wanted to run in the last minute; 0 where the system does not say.

    Where /proc is not mounted, Linux does not.
    """
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def give_way(nice: int) -> None:
    """Let the calling thread run after others; nothing where threads have no priority of their own.

    Nor is anything done where that is forbidden, as in a sandbox: it takes time from others then.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _information() -> str:
    try:
        return _INFORMATION.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
