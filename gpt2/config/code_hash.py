"""The code version of a run: a hash of the sources."""

from __future__ import annotations

import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def code_hash(root: Path = _PACKAGE) -> str:
    """Return one SHA-256 over the sources below `root`: Python and Kconfig, by path.

    A commit is not enough: it may not change these sources, and uncommitted changes have none.
    """
    digest = hashlib.sha256()
    sources = [*root.rglob("*.py"), *root.rglob("*Kconfig")]
    for path in sorted(sources, key=lambda path: path.relative_to(root).as_posix()):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()
