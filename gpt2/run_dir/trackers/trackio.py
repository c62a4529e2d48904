"""Trackio: a local database, unless its own variables (TRACKIO_SPACE_ID) say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trackio

from gpt2.run_dir.tracking import LibraryRun, Tracker


def open(folder: Path, name: str, config: Mapping[str, Any]) -> Tracker:
    """Open a run of the project `gpt2`; `trackio show --project gpt2` shows it."""
    run = trackio.init(project="gpt2", name=name, config=dict(config), resume="allow", embed=False)
    return LibraryRun(run)
