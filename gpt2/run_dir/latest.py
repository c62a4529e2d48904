"""`latest`, the link beside the runs that points to the newest; it may be missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from gpt2.files.link import point
from gpt2.files.manifest import MANIFEST

NAME = "latest"


def point_latest(path: Path, warn: Callable[[str], None]) -> None:
    """Make `latest` beside the run in `path` point to it; call `warn` where that fails."""
    link = path.parent / NAME
    if path != link and (why := point(link, path.name)):
        other = f"{link} is used as it is" if link.exists() else "the newest run is looked for"
        warn(f"{link} does not lead to this run ({why}); in its place {other}")


def meant(path: Path) -> Path:
    """Return the run that `path` means: itself, or the newest run if a `latest` holds no run.

    This happens on file systems without links, and where the run was removed; a line on stderr says
    so.
    """
    if path.name != NAME or (path / "config").exists():
        return path
    runs = [run.parent for run in path.parent.glob("*/run.json") if run.parent.name != NAME]
    runs = [run for run in runs if not (run / MANIFEST).exists()]  # exports do not count
    if not runs:
        return path
    newest = max(runs, key=lambda run: (run / "run.json").stat().st_mtime)
    print(f"{path} leads to no run: taking the newest, {newest}", file=sys.stderr)
    return newest


def with_checkpoint(path: Path) -> Path | None:
    """Return the newest run beside the one in `path` that has a checkpoint, or None."""
    found = {step.parents[1] for step in path.resolve().parent.glob("*/checkpoints/step-*")}
    runs = [run for run in found if run.name != NAME and run != path.resolve()]
    return max(runs, key=lambda run: (run / "checkpoints").stat().st_mtime, default=None)
