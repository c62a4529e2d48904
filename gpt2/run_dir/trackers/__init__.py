"""Plug-ins: one tracker per NAME.py and NAME.Kconfig.

NAME.py has `open(folder, name, config, options)`; that of `none` has nothing. NAME.Kconfig adds
TRACKER_NAME. A tracker's library is optional: it is imported when the tracker is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gpt2.run_dir.tracking import Tracker


class TrackerPlugin(Protocol):
    """What a module in this package offers."""

    def open(self, folder: Path, name: str, config: Mapping[str, Any], options: Any) -> Tracker:
        """Open the tracker of a run, or the same one again when the run resumes.

        `folder` is its own in the run directory, `name` differs from that of every other run.
        `config` has all options of the run, `options` is the plug-in's own `Options`, or None.
        """
        ...
