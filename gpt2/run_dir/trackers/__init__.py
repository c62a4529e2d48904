"""Plug-ins: one tracker per NAME.py and NAME.Kconfig.

NAME.py has `open(folder, name, config)`; that of `none` has nothing. NAME.Kconfig adds
TRACKER_NAME. A tracker's library is optional: it is imported when the tracker is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gpt2.run_dir.tracking import Tracker


class TrackerPlugin(Protocol):
    """What a module in this package offers."""

    def open(self, folder: Path, name: str, config: Mapping[str, Any]) -> Tracker:
        """Open the tracker of a run, or the same one again where the run goes on.

        `folder` is its own in the run directory, `name` differs from that of every other run.
        """
        ...
