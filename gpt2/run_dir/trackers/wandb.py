"""Weights & Biases: offline, to be sent by `wandb sync` later, unless WANDB_MODE says otherwise."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import wandb

from gpt2.config.typed import ResultNeutral
from gpt2.run_dir.tracking import LibraryRun, Tracker

_LOCAL = ("offline", "dryrun", "disabled")


@dataclass(frozen=True)
class Options:
    """Where the run appears in W&B. Empty `entity`: the account's own; `tags`: comma-separated."""

    project: Annotated[str, ResultNeutral()]
    entity: Annotated[str, ResultNeutral()]
    tags: Annotated[str, ResultNeutral()]


def open(folder: Path, name: str, config: Mapping[str, Any], options: Options) -> Tracker:
    """Open a run.

    Raises RuntimeError where W&B would ask for a login.
    """
    mode = os.environ.get("WANDB_MODE", "offline")
    if mode not in _LOCAL and not wandb.login(prompt=False):
        raise RuntimeError(f"WANDB_MODE is {mode}, which needs `wandb login` first")
    # Versions from 0.31 on keep lines to themselves for 15 s, which a kill would lose.
    os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    run = wandb.init(
        project=options.project,
        entity=options.entity or None,
        tags=[tag for part in options.tags.split(",") if (tag := part.strip())],
        id=name.rsplit("-", 1)[-1],  # an id allows fewer characters than a name
        name=name,
        dir=folder,
        config=dict(config),
        mode=mode,
        resume="allow",
        settings=wandb.Settings(console="off", silent=True),  # the console is ours
    )
    return LibraryRun(run, lambda text: wandb.Html(f"<pre>{html.escape(text)}</pre>"), folder)
