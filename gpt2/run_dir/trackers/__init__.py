"""Plug-ins: one tracker per NAME.py and NAME.Kconfig.

NAME.py has `open(folder, name, config, options)`; that of `none` is empty. NAME.Kconfig adds
TRACKER_NAME. A tracker's library is optional: it is imported when the tracker is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gpt2.run_dir.tracking import Tracker


class TrackerPlugin(Protocol):
    """The functions of a module in this package."""

    def open(self, folder: Path, name: str, config: Mapping[str, Any], options: Any) -> Tracker:
        """Open the tracker of a run, or the same one again when the run resumes.

        `folder` is the tracker's own in the run directory. `name` is unique to the run. `config`
        has all options of the run; `options` is the plug-in's own `Options`, or None.
        """
        ...
