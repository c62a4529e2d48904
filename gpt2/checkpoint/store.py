"""Checkpoints that are complete or do not exist, verified on load.

    checkpoints/step-00001000/
        model.safetensors    parameters under their names in the model
        optim.safetensors    optimizer and pruning state
        state.json           everything that is not a tensor
        MANIFEST.json        written last: size and SHA-256 of the others

A checkpoint is written into a hidden folder, synced, and renamed into place. Nothing is pickled. A
sharded run has files for each rank: see sharded.py.
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

from gpt2.checkpoint.joined import JoinedTensors
from gpt2.checkpoint.tensor_file import file_size, read_tensors, write_tensors
from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.files.atomic import new_folder, write_file
from gpt2.files.json import read_object
from gpt2.files.manifest import (
    MANIFEST,
    READS,
    DamagedError,
    newer_format,
    problem,
    ranks_of,
    write_manifest,
)
from gpt2.machine.ranks import DistributedContext

KEEP_LAST = 2
#: Free space needed for a checkpoint, as a multiple of its bytes: others write, too.
_HEADROOM = 1.1
STATE = "state.json"
_KINDS = ("model", "optim")
_ALONE = DistributedContext()


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: tensors by name, and JSON."""

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


def shard_file(kind: str, rank: int, ranks: int) -> str:
    """Return the name of one rank's file of tensors of this `kind`; 0 ranks: not sharded."""
    return f"{kind}-{rank + 1:05d}-of-{ranks:05d}.safetensors" if ranks else f"{kind}.safetensors"


def verifies(folder: Path) -> bool:
    """Return whether `folder` holds a complete, undamaged checkpoint."""
    return folder.exists() and not problem(folder, _wanted(folder))


def save(parent: Path, checkpoint: Checkpoint, keep: Collection[int] = ()) -> None:
    """Write `checkpoint`; then remove all but it, the KEEP_LAST - 1 before it and those in `keep`.

    Later ones are removed, too: the run resumed before them, so they were damaged. Others are
    removed only when the new one is safely on disk. Raises OSError when it cannot be written; then
    nothing new is left, and the last KEEP_LAST and those in `keep` are unchanged.
    """
    final = folder_of(parent, checkpoint.step)
    if verifies(final):
        return
    parent.mkdir(parents=True, exist_ok=True)
    make_room(parent, checkpoint.step, bytes_of(checkpoint), keep)
    with new_folder(final) as temporary:
        _write(temporary, checkpoint)
        if final.exists():
            shutil.rmtree(final)
    faults.failpoint("checkpoint.purge")
    purge(parent, checkpoint.step, keep)


def load_last(
    parent: Path, warn: Callable[[str], None], ranks: DistributedContext = _ALONE
) -> Checkpoint | None:
    """Load the newest checkpoint that verifies; call `warn` for each that does not.

    Returns None when no checkpoint was ever written. All of several ranks must call it, and load
    the same one. Raises UserError when no checkpoint is complete, and when the newest was written
    by a newer version of this program: resuming before it would in time remove it.
    """
    found: list[int] = ranks.gather(steps(parent))[0]
    for step in reversed(found):
        _refuse_newer(parent, step)
        try:
            return load(folder_of(parent, step), ranks)
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
        f"{folder / MANIFEST} has format {version}, {READS}: use the version that wrote it, or a "
        f"newer one; {back}",
        code=Exit.CHECKPOINT,
    )


def load(folder: Path, ranks: DistributedContext = _ALONE) -> Checkpoint:
    """Load and verify one checkpoint.

    All of several ranks must call it; they share the verification. Raises DamagedError.
    """
    found = problem(folder, _wanted(folder), (ranks.rank, ranks.world_size))
    if wrong := ranks.first_problem(found):
        raise DamagedError(wrong)
    cause, made = None, None
    try:
        made = _read(folder)
    except (OSError, ValueError) as error:
        cause = error
    found = f"{folder} cannot be read: {cause}" if cause else None
    if wrong := ranks.first_problem(found):
        raise DamagedError(wrong) from cause
    assert made is not None
    return made


def _read(folder: Path) -> Checkpoint:
    """Read a verified checkpoint.

    Raises OSError or ValueError.
    """
    state = read_object(folder / STATE, {"step": int})
    name = folder.name
    if name.startswith("step-") and name != folder_of(folder.parent, state["step"]).name:
        raise ValueError(f"state.json is of step {state['step']}")
    model, optim = (_tensors(folder, kind) for kind in _KINDS)
    return Checkpoint(state["step"], model, optim, state)


def _tensors(folder: Path, kind: str) -> Mapping[str, Tensor]:
    files = [read_tensors(folder / name) for name in _files(kind, ranks_of(folder))]
    return files[0] if len(files) == 1 else JoinedTensors(files)


def _files(kind: str, ranks: int) -> list[str]:
    return [shard_file(kind, rank, ranks) for rank in range(max(1, ranks))]


def _wanted(folder: Path) -> list[str]:
    """Return the files that a checkpoint must have, by the number of ranks in its manifest."""
    ranks = ranks_of(folder)
    return [STATE, *(name for kind in _KINDS for name in _files(kind, ranks))]


def prepare(parent: Path) -> None:
    """Make the folder of the checkpoints, and remove what killed writers left behind.

    Raises OSError where nothing can be written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
    trial = parent / ".tmp-trial"
    trial.mkdir()
    trial.rmdir()


def bytes_of(checkpoint: Checkpoint) -> int:
    """Return the bytes that a checkpoint takes on disk, without its manifest."""
    tensors = file_size(checkpoint.model) + file_size(checkpoint.optim)
    return tensors + len(state_text(checkpoint))


def make_room(parent: Path, step: int, size: int, keep: Collection[int]) -> None:
    """Ensure that the disk has room for `size` bytes of the checkpoint of `step`.

    If not, checkpoints that need not be kept are removed. Raises OSError (ENOSPC).
    """
    needed = round(_HEADROOM * size)
    disk = shutil.disk_usage(parent)
    if disk.free >= needed or disk.total == 0:  # unknown on some file systems: try to write
        return
    purge(parent, step - 1, keep)
    if (free := shutil.disk_usage(parent).free) < needed:
        raise OSError(
            errno.ENOSPC,
            f"the disk of {parent} has {free:,} bytes free, and it needs {needed:,}",
        )


def purge(parent: Path, step: int, keep: Collection[int]) -> None:
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
        STATE: write_file(folder / STATE, state_text(checkpoint)),
    }
    faults.failpoint("checkpoint.manifest")
    write_manifest(folder, files)
    faults.failpoint("checkpoint.rename")


def state_text(checkpoint: Checkpoint) -> bytes:
    """Return the content of a checkpoint's state.json."""
    return json.dumps({**checkpoint.state, "step": checkpoint.step}, indent=1).encode()
