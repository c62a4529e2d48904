"""Folders that can be verified: a manifest with the size and the SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gpt2.files.atomic import write_file
from gpt2.files.json import mismatch, read_object

MANIFEST = "MANIFEST.json"
FORMAT = 1
#: Format of a sharded checkpoint, in which each rank wrote its shards; older programs refuse it.
SHARDED = 2
#: Part of the messages about a format that this program cannot read.
READS = f"this program reads formats up to {SHARDED}"
_SHAPE = {"format": int, "complete": bool, "files": dict, "ranks?": int}


class DamagedError(Exception):
    """A folder that cannot be used; the message names the file and its problem."""


def write_manifest(folder: Path, files: Mapping[str, tuple[int, str]], ranks: int = 0) -> None:
    """Write MANIFEST.json, the last file of a folder: size and SHA-256 of `files`.

    `ranks`: how many ranks wrote shards of a checkpoint; 0 if it is not sharded. Raises OSError.
    """
    kind: dict[str, int] = {"format": SHARDED, "ranks": ranks} if ranks else {"format": FORMAT}
    manifest = {**kind, "files": files, "complete": True}
    write_file(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def ranks_of(folder: Path) -> int:
    """Return how many ranks wrote the shards in a folder; 0 if not sharded or not readable."""
    try:
        manifest = read_object(folder / MANIFEST, {"format": int, "ranks": int, "files": dict})
    except (OSError, ValueError):
        return 0
    ranks: int = manifest["ranks"]
    # At most the number of files: a damaged number must not ask for an endless list.
    return ranks if manifest["format"] == SHARDED and 0 < ranks <= len(manifest["files"]) else 0


def problem(folder: Path, wanted: Collection[str], share: tuple[int, int] = (0, 1)) -> str | None:
    """Return the problem of a folder that must hold the files `wanted`; None when it verifies.

    With `share` = (k, n), only every n-th file is verified, from the k-th on: n ranks share the
    work.
    """
    path = folder / MANIFEST
    try:
        manifest = read_object(path, {"format": int})
        if manifest["format"] not in (FORMAT, SHARDED):
            return f"{path} has format {manifest['format']}, {READS}"
        if wrong := mismatch(manifest, _SHAPE):
            raise ValueError(wrong)
    except (OSError, ValueError):
        return f"{path} is missing or damaged"
    files = manifest["files"]
    if not (manifest["complete"] and set(wanted) <= set(files)):
        return f"{path} is incomplete"
    own = list(files.items())[share[0] :: share[1]]
    found = (_problem_of(folder, name, entry) for name, entry in own)
    return next((wrong for wrong in found if wrong), None)


def _problem_of(folder: Path, name: str, entry: Any) -> str | None:
    """Return the problem of one file, whose entry in the manifest is `entry`."""
    path, part = folder / MANIFEST, folder / name
    # The name must be a file in this folder: a manifest opens nothing outside.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        return f"{path} names {name!r}, which is not a file in its folder"
    if mismatch(entry, [(int, str)]) or len(entry) != 2:
        return f"{path} is damaged in what it says of {name}"
    size, digest = entry
    if not part.is_file():
        return f"{part} is missing"
    try:
        if part.stat().st_size != size:
            return f"{part} has {part.stat().st_size} bytes instead of {size}"
        with part.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{part} is damaged: its SHA-256 is not the one written"
    except OSError as error:  # a sector that cannot be read is damage, too
        return f"{part} cannot be read: {error.strerror}"
    return None


def newer_format(folder: Path) -> int | None:
    """Return the format of a folder written by a newer version of this program, else None."""
    try:
        version: int = read_object(folder / MANIFEST, {"format": int})["format"]
    except (OSError, ValueError):
        return None
    return version if version > SHARDED else None
