"""Save the checkpoints of a run, and restore its parts from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gpt2.checkpoint import sharded
from gpt2.checkpoint import store as checkpoints
from gpt2.checkpoint.background import Background, Copies
from gpt2.checkpoint.model_weights import load_model
from gpt2.checkpoint.optimizer_state import (
    load_optimizer,
    load_random_state,
    optimizer_tensors,
    random_state,
)
from gpt2.config.errors import Exit, UserError
from gpt2.files.json import mismatch
from gpt2.machine import out_of_memory
from gpt2.machine.ranks import DistributedContext
from gpt2.machine.shards import is_sharded, local_shard
from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import RunFolder
from gpt2.training.loop import Parts, Progress

_PRUNING = "prune."

#: An evaluation: its step, and the validation loss.
Mark = dict[str, float]

_SHAPE = {
    "elapsed": (int, float),
    "optimizer": {"state": dict, "groups": list},
    "precision": dict,
    "random": list,
    "best": (dict, type(None)),
    "last": (dict, type(None)),
    "lowest?": (int, float, type(None)),
}
_MARK = {"step": int, "val_loss": (int, float)}
#: Errors that a missing entry, or one of another type, causes when a state is restored.
_MISFITS = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Saver:
    """Saves and restores `parts` and `progress` in the run's folder.

    In the `background`, save copies the content of a checkpoint and returns; a thread writes the
    copy. At most one write is under way: the next save waits for it. Only the writing itself
    happens in the thread. Sharded ranks write their own shards; else the first rank writes all.
    """

    def __init__(
        self,
        folder: RunFolder,
        console: Console,
        parts: Parts,
        progress: Progress,
        background: bool = False,
    ) -> None:
        self._folder, self._console = folder, console
        self._parts, self._progress = parts, progress
        self._best_saved: Mark | None = None
        writes = parts.ranks.first or parts.ranks.sharded
        self._background = Background() if background and writes else None
        self._copies = Copies()
        self._under_way: tuple[int, Mark | None] | None = None
        self._unsynced: str | None = None

    def save(
        self, required: bool, best: Mark | None, last: Mark | None, lowest: float | None
    ) -> None:
        """Write a checkpoint, with the best and the last evaluation, and the lowest loss so far.

        A failure is an error in the log. Raises UserError when the checkpoint is `required`, which
        is never written in the background, and for weights with NaN or Inf: no later step could
        repair them.
        """
        self.wait()
        tensors, plain = optimizer_tensors(self._parts.optimizer)
        pruned = {_PRUNING + name: t for name, t in self._parts.pruner.state().items()}
        state = {
            "elapsed": self._progress.elapsed,
            "left_out": self._progress.skipped_batches,
            "rollbacks": self._progress.rollbacks,
            "optimizer": plain,
            "precision": self._parts.precision.state(),
            "random": self._parts.ranks.gather(random_state()),
            "best": best,
            "last": last,
            "lowest": lowest,
        }
        weights = dict(self._parts.model.named_parameters())
        refuse_nonfinite(weights, self._progress.step, self._parts.ranks)
        made = checkpoints.Checkpoint(self._progress.step, weights, {**tensors, **pruned}, state)
        if self._parts.ranks.sharded:
            made = sharded.own_part(made, self._parts.ranks)
        elif not self._parts.ranks.first:
            return
        # Until the new best is on disk, --best finds the one before.
        keep = [int(mark["step"]) for mark in (best, self._best_saved) if mark]
        if self._background is None or required:
            self._settle(made.step, best, lambda: self._write(made, keep), required)
        else:
            copied = self._copies.of(made)
            self._under_way = (made.step, best)
            self._background.start(lambda: self._write(copied, keep))

    def look(self) -> None:
        """Report the result of a checkpoint written in the background, once it is done."""
        if self._background is not None and self._background.over:
            self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint under way, if there is one, and report its result."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            assert self._background is not None
            self._settle(*under_way, self._background.wait, required=False)

    def close(self) -> None:
        """Wait for the checkpoint under way, and stop the thread."""
        try:
            self.wait()
        finally:
            if self._background is not None:
                self._background.close()

    def _write(self, made: checkpoints.Checkpoint, keep: list[int]) -> None:
        if self._parts.ranks.sharded:
            ranks = self._parts.ranks
            sharded.save(self._folder.checkpoints, made, keep, ranks, self._sync_metrics)
        else:
            self._sync_metrics()
            checkpoints.save(self._folder.checkpoints, made, keep)

    def _sync_metrics(self) -> None:
        # Lines not yet on disk would be missing after a crash and a resume. But a failure here must
        # not cost the checkpoint: weights are worth more than a line.
        try:
            self._folder.sync_metrics()
        except FileNotFoundError:  # the folder is gone; another in its place is not this run
            raise
        except OSError as error:
            self._unsynced = _words(error)

    def _settle(
        self, step: int, best: Mark | None, written: Callable[[], None], required: bool
    ) -> None:
        """Wait for the writing of the checkpoint of `step` by `written`, and report its result."""
        try:
            written()
        except OSError as error:
            self._say_unsynced()
            reason = f"checkpoint of step {step} was not written: {_words(error)}"
            gone = isinstance(error, FileNotFoundError)
            if required:
                way = "make room and run this again to go on"
                if gone:
                    way = "restore it and run this again, or start a new run with another --run-dir"
                raise UserError(f"{reason}; {way}", code=Exit.CHECKPOINT) from error
            older = "" if gone else ", the older checkpoints are intact"
            self._console.warn(f"{reason}; training continues{older}")
            return
        self._say_unsynced()
        if best and best["step"] == step:
            self._best_saved = best

    def _say_unsynced(self) -> None:
        why, self._unsynced = self._unsynced, None
        if why is not None:
            self._console.warn(f"metrics.jsonl: a power cut could cost lines of it: {why}")

    def restore(self) -> dict[str, Any] | None:
        """Restore everything from the newest good checkpoint, and cut metrics.jsonl to it.

        Returns the checkpoint's state; None when there is none.
        """
        self.wait()
        if self._parts.ranks.first:
            try:
                checkpoints.prepare(self._folder.checkpoints)
            except OSError as error:
                raise UserError(
                    f"{self._folder.checkpoints} cannot be written: {error.strerror}; choose "
                    "another --run-dir, or make it writable"
                ) from error
        self._parts.ranks.barrier()
        ranks = self._parts.ranks
        found = checkpoints.load_last(self._folder.checkpoints, self._console.warn, ranks)
        if found is None:
            self._folder.cut_metrics(0, evaluated=False)
            return None
        try:
            _refuse_misshapen(found.state)
            self._put_back(found)
        except _MISFITS as error:
            if out_of_memory.is_exhaustion(error):
                raise
            # It verifies, so it is what was written: by another version, or by somebody else.
            raise UserError(
                f"{self._folder.checkpoints}: the checkpoint of step {found.step} is whole, but not"
                f" what this version writes ({type(error).__name__}: {error}); go on with the"
                " version that made it, or start again in a new --run-dir",
                code=Exit.CHECKPOINT,
            ) from error
        last = found.state["last"]
        self._folder.cut_metrics(found.step, last is not None and last["step"] == found.step)
        self._console.say(f"resuming after step {found.step}")
        return found.state

    def _put_back(self, found: checkpoints.Checkpoint) -> None:
        parameters = dict(self._parts.model.named_parameters())
        if any(map(is_sharded, parameters.values())):
            model, optim = (
                sharded.sharded_like(held, parameters) for held in (found.model, found.optim)
            )
            found = checkpoints.Checkpoint(found.step, model, optim, found.state)
        load_model(self._parts.model, found)
        pruned = [name for name in found.optim if name.startswith(_PRUNING)]
        tensors = {name: found.optim[name] for name in found.optim if name not in pruned}
        load_optimizer(self._parts.optimizer, tensors, found.state["optimizer"])
        self._parts.pruner.load({n.removeprefix(_PRUNING): found.optim[n] for n in pruned})
        self._parts.precision.load(found.state["precision"])
        states = found.state["random"]
        if len(states) == self._parts.ranks.world_size:  # else each rank continues from its seed
            load_random_state(states[self._parts.ranks.rank])
        # Old checkpoints, written before rollbacks existed, have no count.
        skipped_batches, rollbacks = (
            found.state.get(name, 0) for name in ("left_out", "rollbacks")
        )
        self._progress.resume(found.step, found.state["elapsed"], skipped_batches, rollbacks)
        self._best_saved = found.state["best"]


def refuse_nonfinite(weights: Mapping[str, Tensor], step: int, ranks: DistributedContext) -> None:
    """Raise UserError where a weight after `step` steps is NaN or Inf.

    Sharded ranks raise it on all of them.
    """
    own = {name: local_shard(w.detach()) for name, w in weights.items()}
    own = {name: w for name, w in own.items() if w.numel()}
    # The largest magnitude is NaN if any weight is, and takes no memory to find.
    found = [torch.linalg.vector_norm(w, math.inf) for w in own.values()]
    broken = None
    if found and not bool(torch.isfinite(torch.stack(found)).all()):
        pairs = zip(own, found, strict=True)
        broken = next(name for name, largest in pairs if not torch.isfinite(largest))
    if ranks.sharded:
        broken = ranks.first_problem(broken)
    if broken is None:
        return
    raise UserError(
        f"diverged: {broken} is not finite after step {step}: no checkpoint is written of it, "
        "those before are intact; lower --learning-rate or raise --warmup-steps in a new "
        "--run-dir",
        code=Exit.DIVERGED,
    )


def _words(error: OSError) -> str:
    """Return what went wrong, with the file if known."""
    where = f" ({error.filename})" if error.filename is not None else ""
    return f"{error.strerror or error}{where}"


def _refuse_misshapen(state: dict[str, Any]) -> None:
    """Raise ValueError where entries of a checkpoint's state have other types than ours."""
    wrong = mismatch(state, _SHAPE)
    for name in ("best", "last"):
        wrong = wrong or (state[name] and mismatch(state[name], _MARK))
    if wrong:
        raise ValueError(wrong)
