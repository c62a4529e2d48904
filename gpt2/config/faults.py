"""Injection points for the fault tests; inert unless GPT2_FAULT is set.

GPT2_FAULT=point:action[:n] arms one point: at its n-th passing (the first, without n) the process
is killed (`kill`), told to stop (`term`), or meets a full disk (`enospc`).
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import signal

_passings = itertools.count(1)


@functools.cache
def _armed() -> list[str]:
    return os.environ.get("GPT2_FAULT", "").split(":")


def point(name: str) -> None:
    """Pass the injection point `name`: does nothing unless GPT2_FAULT arms it."""
    armed = _armed()
    if armed[0] != name or next(_passings) != int(armed[2] if len(armed) > 2 else 1):
        return
    action = armed[1]
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        raise ValueError(f"GPT2_FAULT names an unknown action: {action!r}")
