"""Checkpoints that are whole or do not exist, verified on load.

    checkpoints/step-00001000/
        model.safetensors    parameters under their names in the model
        optim.safetensors    optimizer and pruning state
        state.json           everything that is not a tensor
        MANIFEST.json        written last: size and SHA-256 of the others

A checkpoint is written into a hidden folder, synced, and renamed into place. Nothing is pickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.config.json_files import read_object
from gpt2.training.manifest import DamagedError, appearing, problem, write_file, write_manifest
from gpt2.training.tensorfile import read_tensors, write_tensors

KEEP_LAST = 2
_FILES = ("model.safetensors", "optim.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: tensors by name, and JSON."""

    step: int
    model: Mapping[str, Tensor]
    optim: Mapping[str, Tensor]
    state: dict[str, Any]


def folder_of(parent: Path, step: int) -> Path:
    """Return the folder of the checkpoint of `step` in `parent`."""
    return parent / f"step-{step:08d}"


def steps(parent: Path) -> list[int]:
    """Return the steps of the finished checkpoints in `parent`, oldest first."""
    names = (re.fullmatch(r"step-([0-9]{8,})", path.name) for path in parent.glob("step-*"))
    return sorted(int(name[1]) for name in names if name)


def save(parent: Path, checkpoint: Checkpoint, keep: Iterable[int] = ()) -> None:
    """Write `checkpoint`, then remove all but it, the KEEP_LAST - 1 before it and those in `keep`.

    Later ones go too: the run went on from before them, so they were damaged.
    Raises OSError when it cannot be written; nothing of it is left then, and no older checkpoint is
    touched. The old ones go only when the new one is safely on disk.
    """
    final = folder_of(parent, checkpoint.step)
    if final.exists() and not problem(final, _FILES):
        return
    with appearing(final) as temporary:
        _write(temporary, checkpoint)
        if final.exists():
            shutil.rmtree(final)
    faults.point("checkpoint.purge")
    upto = [step for step in steps(parent) if step <= checkpoint.step]
    kept = {*upto[-KEEP_LAST:], *keep}
    for step in steps(parent):
        if step not in kept:
            shutil.rmtree(folder_of(parent, step), ignore_errors=True)


def load_last(parent: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Load the newest checkpoint that verifies; `warn` of each that does not.

    None when there has never been one. Raises UserError when there are some and none is whole.
    """
    found = steps(parent)
    for step in reversed(found):
        try:
            return load(folder_of(parent, step))
        except DamagedError as error:
            warn(f"{error}; going back to the checkpoint before it")
    if found:
        raise UserError(
            f"no checkpoint in {parent} can be used; start again in a new --run-dir",
            code=Exit.CHECKPOINT,
        )
    return None


def load(folder: Path) -> Checkpoint:
    """Load and verify one checkpoint. Raises DamagedError."""
    if wrong := problem(folder, _FILES):
        raise DamagedError(wrong)
    try:
        state = read_object(folder / "state.json", {"step": int})
        name = folder.name
        if name.startswith("step-") and name != folder_of(folder.parent, state["step"]).name:
            raise ValueError(f"state.json is of step {state['step']}")
        return Checkpoint(
            step=state["step"],
            model=read_tensors(folder / "model.safetensors"),
            optim=read_tensors(folder / "optim.safetensors"),
            state=state,
        )
    except (OSError, ValueError) as error:
        raise DamagedError(f"{folder} cannot be read: {error}") from error


def remove_unfinished(parent: Path) -> None:
    """Remove what killed writers left behind."""
    for path in parent.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    state = json.dumps({**checkpoint.state, "step": checkpoint.step}, indent=1).encode()
    files = {
        "model.safetensors": write_tensors(folder / "model.safetensors", checkpoint.model),
        "optim.safetensors": write_tensors(folder / "optim.safetensors", checkpoint.optim),
        "state.json": write_file(folder / "state.json", state),
    }
    faults.point("checkpoint.manifest")
    write_manifest(folder, files)
    faults.point("checkpoint.rename")
