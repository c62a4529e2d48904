"""Trackio: a local database, unless its own variables (TRACKIO_SPACE_ID) say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import trackio

from gpt2.config.typed import ResultNeutral
from gpt2.run_dir.tracking import LibraryRun, Tracker, as_code


@dataclass(frozen=True)
class Options:
    """Where the run appears in Trackio."""

    project: Annotated[str, ResultNeutral()]
    group: Annotated[str, ResultNeutral()]


def open(folder: Path, name: str, config: Mapping[str, Any], options: Options) -> Tracker:
    """Open a run; `trackio show --project gpt2` shows the runs of project gpt2."""
    run = trackio.init(
        project=options.project,
        group=options.group or None,
        name=name,
        config=dict(config),
        resume="allow",
        embed=False,
    )
    return LibraryRun(run, lambda text: trackio.Markdown(as_code(text)), folder)
