"""A trained model out of its run directory, for the entries that use one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import Config, MachineConfig
from gpt2.model.gpt import GPT
from gpt2.rundir import load_config
from gpt2.training import checkpoint, machine
from gpt2.training.manifest import DamagedError
from gpt2.training.recorder import load_model
from gpt2.training.run import read_json


@dataclass(frozen=True)
class Trained:
    """A model with its weights, in evaluation mode, and what its run says of itself."""

    model: GPT
    config: Config
    record: dict[str, Any]
    step: int
    device: torch.device


def load_trained(run: Path, best: bool, where: MachineConfig) -> Trained:
    """Load the last checkpoint of the run in `run`, or the best by validation. Raises UserError."""
    config = load_config(run)
    record = read_json(run, "run.json")
    device = machine.resolve_device(where.device)
    if where.num_threads:
        torch.set_num_threads(where.num_threads)
    found = _best(run) if best else checkpoint.load_last(run / "checkpoints", warn)
    if found is None:
        raise UserError(f"{run} holds no checkpoint yet", code=Exit.CHECKPOINT)
    with torch.device("meta"):
        model = GPT(config.model, record["data"]["tokenizer"]["vocab_size"])
    model.to_empty(device=device)
    load_model(model, found)
    return Trained(model.eval(), config, record, found.step, device)


def _best(run: Path) -> checkpoint.Checkpoint:
    """Load the best checkpoint by validation; of a run under way, the best up to its last one."""
    parent = run / "checkpoints"
    if (run / "summary.json").exists():
        best = read_json(run, "summary.json")["best"]
    else:
        last = checkpoint.load_last(parent, warn)
        best = last.state["best"] if last else None
    if best is None:
        raise UserError(f"--best: {run} has no evaluation yet", code=Exit.CHECKPOINT)
    try:
        return checkpoint.load(checkpoint.folder_of(parent, best["step"]))
    except DamagedError as error:
        raise UserError(f"--best: {error}", code=Exit.CHECKPOINT) from error


def warn(text: str) -> None:
    """Say on the error stream what went another way than asked."""
    print(f"warning: {text}", file=sys.stderr)
