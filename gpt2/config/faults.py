"""Injection points for the fault tests; inert unless GPT2_FAULT is set.

GPT2_FAULT=point:action[:n] arms one point: at its n-th passing (the first, without n) the process
is killed (`kill`), told to stop (`term`), or meets a full disk (`enospc`).
"""

from __future__ import annotations

import errno
import os
import signal

_armed: list[str] | None = None
_passed = 0


def point(name: str) -> None:
    """Pass the injection point `name`: does nothing unless GPT2_FAULT arms it."""
    global _armed, _passed
    if _armed is None:
        _armed = os.environ.get("GPT2_FAULT", "").split(":")
    if _armed[0] != name:
        return
    _passed += 1
    if _passed != int(_armed[2] if len(_armed) > 2 else 1):
        return
    action = _armed[1]
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        raise ValueError(f"GPT2_FAULT names an unknown action: {action!r}")
