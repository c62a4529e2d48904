"""Results of reading large files whole (hashes, largest ids), cached so that it happens once.

A hidden file beside the data stores, for each file, its size, times and inode, and the results.
While those are unchanged, the file counts as unchanged. Only changes below the file system, or with
the clock set back, are missed.
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
_FROM = 64 << 20  # bytes; smaller files are read again
_SETTLED = 2.0  # seconds without a change: file system clocks tick slowly

Found = TypeVar("Found", int, str)


def once(path: Path, what: str, kind: type[Found], find: Callable[[], Found]) -> Found:
    """Return the result of `find` for a file; for a large file, the cached one if there is one.

    `what` names the result, `kind` is its type. In a read-only folder nothing is cached.
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
    """Return the properties that change when a file changes.

    Raises OSError.
    """
    # ctime_ns, unlike mtime_ns, cannot be set: it shows changes that were dated back.
    found = path.stat()
    return {
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }


def _read(folder: Path) -> dict[str, Any]:
    """Return the whole cache of a folder; empty where it is missing or damaged."""
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
    with contextlib.suppress(OSError):  # a read-only folder: nothing is cached
        replace_file(path.parent / NAME, json.dumps(kept, indent=1) + "\n")
