"""What was found out about large files by reading them whole, kept so that it is done once.

A hidden file beside the data says for each of them its size, its times and its inode, and what was
found. While these are the same, the file is taken to be the same: only a change that leaves no
trace in them (of the disk below the file system, or with the clock set back) would not be seen.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gpt2.files.atomic import replace_file
from gpt2.files.json import read_object

NAME = ".checked.json"
_FROM = 64 << 20  # bytes; what is smaller is read again in no time
_SETTLED = 2.0  # seconds without a change, since the clock of a file system ticks slowly

Found = TypeVar("Found", int, str)


def once(path: Path, what: str, kind: type[Found], find: Callable[[], Found]) -> Found:
    """Return what `find` finds out about a file; of a large one, what an earlier call found.

    `what` names it, `kind` is its type. Where the folder cannot be written, it is found each time.
    """
    now = state(path)
    if now["size"] < _FROM:
        return find()
    entry = _read(path.parent).get(path.name)
    if isinstance(entry, dict) and entry.get("state") == now:
        known = entry.get(what)
        if isinstance(known, kind):
            return known
    settled = time.time_ns() - max(now["mtime_ns"], now["ctime_ns"]) > _SETTLED * 1e9
    found = find()
    if settled and state(path) == now:
        _keep(path, now, what, found)
    return found


def state(path: Path) -> dict[str, int]:
    """Return the marks by which a change of a file is seen. Raises OSError."""
    # ctime_ns, unlike mtime_ns, cannot be set: it gives away what was changed and dated back.
    found = path.stat()
    return {
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }


def _read(folder: Path) -> dict[str, Any]:
    """Everything kept in a folder; nothing where that is missing or damaged."""
    try:
        kept = read_object(folder / NAME)
    except (OSError, ValueError):
        return {}
    return kept


def _keep(path: Path, now: dict[str, int], what: str, found: int | str) -> None:
    kept = _read(path.parent)
    entry = kept.get(path.name)
    if not isinstance(entry, dict) or entry.get("state") != now:
        entry = {"state": now}
    kept[path.name] = entry | {what: found}
    with contextlib.suppress(OSError):  # a folder of somebody else's: found again each time
        replace_file(path.parent / NAME, json.dumps(kept, indent=1) + "\n")
