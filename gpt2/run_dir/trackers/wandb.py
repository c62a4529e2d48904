"""Weights & Biases: offline, to be sent by `wandb sync` later, unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from gpt2.run_dir.tracking import LibraryRun, Tracker

_LOCAL = ("offline", "dryrun", "disabled")


def open(folder: Path, name: str, config: Mapping[str, Any]) -> Tracker:
    """Open a run of the project `gpt2`. Raises RuntimeError where a login would be asked for."""
    mode = os.environ.get("WANDB_MODE", "offline")
    if mode not in _LOCAL and not wandb.login(prompt=False):
        raise RuntimeError(f"WANDB_MODE is {mode}, which needs `wandb login` first")
    run = wandb.init(
        project="gpt2",
        id=name.rsplit("-", 1)[-1],  # the name itself may hold what an id must not
        name=name,
        dir=folder,
        config=dict(config),
        mode=mode,
        resume="allow",
        settings=wandb.Settings(console="off", silent=True),  # the console is ours
    )
    return LibraryRun(run)
