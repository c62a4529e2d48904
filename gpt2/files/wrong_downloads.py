"""Files that are not what was meant to be downloaded: git-lfs pointers, web pages."""

from __future__ import annotations

from pathlib import Path

_BEGINNING = 512  # bytes that are examined


def what_it_is(path: Path) -> str:
    """Describe a git-lfs pointer, web page or server's answer, with the remedy.

    Returns "" where the file is none of these or cannot be read.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING).lstrip().lower()
        size = path.stat().st_size
    except OSError:
        return ""
    again = "download the file itself"
    if beginning.startswith(b"version https://git-lfs"):
        return (
            f"{path.name} is a pointer of git-lfs, not the file: 'git lfs pull' there, or {again}"
        )
    if beginning.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return f"{path.name} is a web page of {size:,} bytes, not the file: {again}"
    if size < _BEGINNING and beginning.startswith(
        (b"entry not found", b"not found", b"invalid ", b"access to ", b"repository not found")
    ):
        answer = beginning.decode("ascii", "replace").splitlines()[0]
        return f"{path.name} holds a server's answer ({answer!r}), not the file: {again}"
    return ""
