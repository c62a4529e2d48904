"""Load a trained model from its run directory or an export."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt2.checkpoint import store
from gpt2.checkpoint.model_weights import load_model
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import Config, MachineConfig
from gpt2.files.json import mismatch
from gpt2.files.manifest import DamagedError
from gpt2.machine import device as machine
from gpt2.model.build import empty_model
from gpt2.model.language_model import LanguageModel
from gpt2.run_dir.folder import read_json
from gpt2.run_dir.latest import meant, with_checkpoint
from gpt2.run_dir.resume import load_config
from gpt2.weights.export_folder import is_export, load_export

#: Token files are uint16.
_MOST_IDS = 1 << 16


@dataclass(frozen=True)
class Trained:
    """A model with its weights, in evaluation mode, and its run's run.json.

    path: the run directory or the export, never the link `latest`.
    """

    model: LanguageModel
    config: Config
    record: dict[str, Any]
    step: int
    device: torch.device
    path: Path

    @property
    def name(self) -> str:
        """Return a line that says which model it is: its folder, and its step."""
        here = Path.cwd()
        path = self.path.relative_to(here) if self.path.is_relative_to(here) else self.path
        return f"{path}, step {self.step}"


@dataclass(frozen=True)
class Stored:
    """The weights of a run on disk, and the run's run.json; path: as in Trained."""

    weights: store.Checkpoint
    config: Config
    record: dict[str, Any]
    path: Path

    @property
    def vocab_size(self) -> int:
        """Return the number of ids that the model knows.

        Raises UserError where no token file could hold them.
        """
        size = int(self.record["data"]["tokenizer"]["vocab_size"])
        if not 0 < size <= _MOST_IDS:
            raise UserError(f"run.json says that the vocabulary has {size} ids: it is damaged")
        return size


def open_stored(run: Path, best: bool) -> Stored:
    """Open the last checkpoint of the run in `run`, or the best by validation; or an export.

    Raises UserError.
    """
    run = meant(run)
    if is_export(run):
        if best:
            raise UserError(f"--best: {run} is an export, which holds one checkpoint; leave it out")
        try:
            exported = load_export(run)  # first: it verifies what is read next
        except DamagedError as error:
            raise UserError(str(error), code=Exit.CHECKPOINT) from error
        return Stored(exported, load_config(run), read_json(run, "run.json"), run.resolve())
    config, record = load_config(run), read_json(run, "run.json")
    found = _best(run) if best else store.load_last(run / "checkpoints", warn)
    if found is None:
        other = with_checkpoint(run)
        raise UserError(
            f"{run.resolve()} holds no checkpoint yet" + (f"; {other} has one" if other else ""),
            code=Exit.CHECKPOINT,
        )
    return Stored(found, config, record, run.resolve())


def load_trained(run: Path, best: bool, where: MachineConfig) -> Trained:
    """Load a model from open_stored.

    Raises UserError.
    """
    device = machine.resolve_device(where.device, where.device_index)
    if where.num_threads:
        torch.set_num_threads(where.num_threads)
    stored = open_stored(run, best)
    with torch.device("meta"):
        model = empty_model(stored.config.model, stored.vocab_size)
    model.to_empty(device=device)
    load_model(model, stored.weights)
    step = stored.weights.step
    return Trained(model.eval(), stored.config, stored.record, step, device, stored.path)


def _best(run: Path) -> store.Checkpoint:
    """Load the best checkpoint by validation; of an unfinished run, as of its last checkpoint."""
    parent = run / "checkpoints"
    if (run / "summary.json").exists():
        best = read_json(run, "summary.json").get("best")
    else:
        last = store.load_last(parent, warn)
        best = last.state["best"] if last else None
    if best is None or mismatch(best, {"step": int}):
        raise UserError(
            f"--best: {run} has no evaluation yet, or none at its final sparsity",
            code=Exit.CHECKPOINT,
        )
    try:
        return store.load(store.folder_of(parent, best["step"]))
    except DamagedError as error:
        raise UserError(f"--best: {error}", code=Exit.CHECKPOINT) from error


def warn(text: str) -> None:
    """Print a warning to stderr."""
    print(f"warning: {text}", file=sys.stderr)
