"""Checkpoints that are whole or do not exist, verified on load.

    checkpoints/step-00001000/
        model.safetensors    parameters under their names in the model
        optim.safetensors    optimizer and pruning state
        state.json           everything that is not a tensor
        MANIFEST.json        written last: size and SHA-256 of the others

A checkpoint is written into a hidden folder, synced, and renamed into place. Nothing is pickled.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt2.checkpoint.tensor_file import file_size, read_tensors, write_tensors
from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.files.atomic import new_folder, write_file
from gpt2.files.json import read_object
from gpt2.files.manifest import (
    FORMAT,
    MANIFEST,
    DamagedError,
    newer_format,
    problem,
    write_manifest,
)

KEEP_LAST = 2
#: Room that a disk must have for a checkpoint, over its bytes: others write, too.
_HEADROOM = 1.1
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


def save(parent: Path, checkpoint: Checkpoint, keep: Collection[int] = ()) -> None:
    """Write `checkpoint`, then remove all but it, the KEEP_LAST - 1 before it and those in `keep`.

    Later ones go too: the run went on from before them, so they were damaged.
    Raises OSError when it cannot be written; nothing of it is left then, and none of the last
    KEEP_LAST, nor of those in `keep`, is touched. They go only when the new one is safely on disk.
    """
    final = folder_of(parent, checkpoint.step)
    if final.exists() and not problem(final, _FILES):
        return
    parent.mkdir(parents=True, exist_ok=True)
    _make_room(parent, checkpoint, keep)
    with new_folder(final) as temporary:
        _write(temporary, checkpoint)
        if final.exists():
            shutil.rmtree(final)
    faults.failpoint("checkpoint.purge")
    _purge(parent, checkpoint.step, keep)


def load_last(parent: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Load the newest checkpoint that verifies; `warn` of each that does not.

    None when there has never been one. Raises UserError when there are some and none is whole, and
    when one that a newer version of this program wrote comes first: to go back behind it would in
    time remove it.
    """
    found = steps(parent)
    for step in reversed(found):
        _refuse_newer(parent, step)
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


def _refuse_newer(parent: Path, step: int) -> None:
    folder = folder_of(parent, step)
    if (version := newer_format(folder)) is None:
        return
    before = [other for other in steps(parent) if other < step]
    back = f"move it away to go on after step {before[-1]}" if before else "it is the only one"
    raise UserError(
        f"{folder / MANIFEST} has format {version}, this program reads format {FORMAT}: use the "
        f"version that wrote it, or a newer one; {back}",
        code=Exit.CHECKPOINT,
    )


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


def prepare(parent: Path) -> None:
    """Make the folder of the checkpoints, without what killed writers left behind.

    Raises OSError where nothing can be written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
    trial = parent / ".tmp-trial"
    trial.mkdir()
    trial.rmdir()


def _bytes_of(checkpoint: Checkpoint) -> int:
    """Return the bytes that a checkpoint takes on a disk, but for its manifest."""
    tensors = file_size(checkpoint.model) + file_size(checkpoint.optim)
    return tensors + len(_state(checkpoint))


def _make_room(parent: Path, checkpoint: Checkpoint, keep: Collection[int]) -> None:
    """See that the disk has room, else remove what need not be kept. Raises OSError (ENOSPC)."""
    needed = round(_HEADROOM * _bytes_of(checkpoint))
    disk = shutil.disk_usage(parent)
    if disk.free >= needed or disk.total == 0:  # some file systems do not say: then it is tried
        return
    _purge(parent, checkpoint.step - 1, keep)
    if (free := shutil.disk_usage(parent).free) < needed:
        raise OSError(
            errno.ENOSPC,
            f"the disk of {parent} has {free:,} bytes free, and it needs {needed:,}",
        )


def _purge(parent: Path, step: int, keep: Collection[int]) -> None:
    """Remove all but the KEEP_LAST newest up to `step` and those in `keep`."""
    upto = [found for found in steps(parent) if found <= step]
    kept = {*upto[-KEEP_LAST:], *keep}
    for found in steps(parent):
        if found not in kept:
            shutil.rmtree(folder_of(parent, found), ignore_errors=True)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    files = {
        "model.safetensors": write_tensors(folder / "model.safetensors", checkpoint.model),
        "optim.safetensors": write_tensors(folder / "optim.safetensors", checkpoint.optim),
        "state.json": write_file(folder / "state.json", _state(checkpoint)),
    }
    faults.failpoint("checkpoint.manifest")
    write_manifest(folder, files)
    faults.failpoint("checkpoint.rename")


def _state(checkpoint: Checkpoint) -> bytes:
    return json.dumps({**checkpoint.state, "step": checkpoint.step}, indent=1).encode()
