"""Checkpoints of sharded runs (FSDP): every rank writes its own files.

    checkpoints/step-00001000/
        model-00001-of-00002.safetensors    the first rank's rows of the parameters
        model-00002-of-00002.safetensors    the second rank's
        optim-00001-of-00002.safetensors    the same for optimizer and pruning state; what all
        optim-00002-of-00002.safetensors    ranks share (counts, masks) is in the first file
        state.json                          as in any other checkpoint
        MANIFEST.json                       written last, by the first rank: format 2, `ranks`

Each file holds consecutive rows of a tensor, in the order of the ranks. To save and to resume, a
rank never needs more memory than its shard, for any number of ranks before.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from gpt2.checkpoint.joined import JoinedTensors
from gpt2.checkpoint.store import (
    STATE,
    Checkpoint,
    bytes_of,
    folder_of,
    make_room,
    purge,
    shard_file,
    state_text,
    verifies,
)
from gpt2.checkpoint.tensor_file import LazyTensors, write_tensors
from gpt2.config import faults
from gpt2.files.atomic import new_folder, write_file
from gpt2.files.manifest import write_manifest
from gpt2.machine.ranks import DistributedContext
from gpt2.machine.shards import from_shard, is_sharded, local_shard, shard_rows

Result = TypeVar("Result")


def own_part(whole: Checkpoint, ranks: DistributedContext) -> Checkpoint:
    """Return what this rank writes of a checkpoint: plain tensors that share the memory."""

    def part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {n: local_shard(t) for n, t in tensors.items() if is_sharded(t) or ranks.first}
        # A rank without rows of a tensor does not write it.
        return {n: t for n, t in own.items() if ranks.first or t.numel()}

    return Checkpoint(whole.step, part(whole.model), part(whole.optim), whole.state)


def save(
    parent: Path,
    own: Checkpoint,
    keep: Collection[int],
    ranks: DistributedContext,
    before: Callable[[], None],
) -> None:
    """Write the results of own_part on all ranks; then remove older checkpoints as store.save does.

    The first rank calls `before` first. Raises OSError on all ranks when one of them cannot write;
    then nothing new is left, and the older checkpoints are unchanged.
    """
    final = folder_of(parent, own.step)

    def is_there() -> bool:
        before()
        return verifies(final)

    if _on_first(ranks, is_there):
        return
    size = sum(ranks.gather(bytes_of(own), aside=True))

    def begin() -> Path:
        parent.mkdir(parents=True, exist_ok=True)
        make_room(parent, own.step, size, keep)
        return stack.enter_context(new_folder(final))

    def finish() -> None:
        files = {name: entry for part in written for name, entry in part.items()}
        files[STATE] = write_file(temporary / STATE, state_text(own))
        faults.failpoint("checkpoint.manifest")
        write_manifest(temporary, files, ranks.world_size)
        faults.failpoint("checkpoint.rename")
        if final.exists():
            shutil.rmtree(final)
        stack.close()  # renames the folder
        faults.failpoint("checkpoint.purge")
        purge(parent, own.step, keep)

    with ExitStack() as stack:
        temporary = _on_first(ranks, begin)
        written = _on_all(ranks, lambda: _write(temporary, own, ranks))
        _on_first(ranks, finish)


def _write(folder: Path, own: Checkpoint, ranks: DistributedContext) -> dict[str, tuple[int, str]]:
    """Write this rank's files; return size and SHA-256 of each by name.

    Raises OSError.
    """
    kinds = {"model": own.model, "optim": own.optim}
    names = {kind: shard_file(kind, ranks.rank, ranks.world_size) for kind in kinds}
    return {names[kind]: write_tensors(folder / names[kind], kinds[kind]) for kind in kinds}


def _on_all(ranks: DistributedContext, task: Callable[[], Result]) -> list[Result]:
    """Return the result of `task` on each rank.

    Raises OSError on all ranks when it fails on one.
    """
    result, problem = None, None
    try:
        result = task()
    except OSError as error:
        problem = (error.errno or errno.EIO, error.strerror or str(error), error.filename)
    told = ranks.gather((result, problem), aside=True)
    for _, found in told:
        if found is not None:
            number, words, name = found
            raise OSError(number, words or os.strerror(number), name)
    return [given for given, _ in told]


def _on_first(ranks: DistributedContext, task: Callable[[], Result]) -> Result:
    """Return the first rank's result of `task`, on all ranks.

    Raises OSError on all ranks when it fails there.
    """
    return _on_all(ranks, lambda: task() if ranks.first else None)[0]  # type: ignore[return-value]


def sharded_like(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return a checkpoint's `tensors`, sharded where their parameters are.

    A tensor belongs to the parameter whose name is part of its own, if the shapes agree. When a
    tensor is asked for, only this rank's rows are read.
    """
    joined = tensors if isinstance(tensors, JoinedTensors) else JoinedTensors([tensors])

    def make(name: str) -> Tensor:
        owner = _owner(name, parameters)
        if owner is None or not is_sharded(owner) or joined.shape(name) != owner.shape:
            return joined[name]
        return from_shard(joined.rows(name, shard_rows(owner)), owner)

    return LazyTensors({name: partial(make, name) for name in joined})


def _owner(name: str, parameters: Mapping[str, Tensor]) -> Tensor | None:
    """Return the parameter whose name is in `name`: alone, before .KEY or after PREFIX."""
    words = name.split(".")
    spans = ((a, b) for a in range(len(words)) for b in range(len(words), a, -1))
    found = (".".join(words[a:b]) for a, b in spans)
    return next((parameters[part] for part in found if part in parameters), None)
