"""Trackio: a local database, unless its own variables (TRACKIO_SPACE_ID) say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trackio

from gpt2.training.tracking import Tracker


class _Run:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def open(folder: Path, name: str, config: Mapping[str, Any]) -> Tracker:
    """Open a run of the project `gpt2`; `trackio show --project gpt2` shows it."""
    run = trackio.init(project="gpt2", name=name, config=dict(config), resume="allow", embed=False)
    return _Run(run)
