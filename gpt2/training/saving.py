"""The checkpoints of a run under way: what goes into one, and the parts put back to it."""

from __future__ import annotations

from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.json_files import mismatch
from gpt2.training import checkpoint as checkpoints
from gpt2.training import exhaustion
from gpt2.training.distributed import part_like, whole
from gpt2.training.loop import Clock, Parts
from gpt2.training.progress import Console
from gpt2.training.run import RunFolder
from gpt2.training.state import (
    load_optimizer,
    load_random_state,
    optimizer_tensors,
    random_state,
)

_PRUNING = "prune."

#: An evaluation: the step it was made after, and the validation loss.
Mark = dict[str, float]

_SHAPE = {
    "elapsed": (int, float),
    "optimizer": {"state": dict, "groups": list},
    "precision": dict,
    "random": list,
    "best": (dict, type(None)),
    "last": (dict, type(None)),
}
_MARK = {"step": int, "val_loss": (int, float)}
#: What an entry of another kind, or none, leads to where a state is put back.
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
    """Saves and restores `parts` and `clock` in the run's folder."""

    def __init__(self, folder: RunFolder, console: Console, parts: Parts, clock: Clock) -> None:
        self._folder, self._console = folder, console
        self._parts, self._clock = parts, clock
        self._best_saved: Mark | None = None

    def save(self, required: bool, best: Mark | None, last: Mark | None) -> None:
        """Write a checkpoint, with the best and the last evaluation so far.

        A failure is an error in the log. Raises UserError when it is `required`.
        """
        tensors, plain = optimizer_tensors(self._parts.optimizer)
        pruned = {_PRUNING + name: t for name, t in self._parts.pruner.state().items()}
        state = {
            "elapsed": self._clock.elapsed,
            "optimizer": plain,
            "precision": self._parts.precision.state(),
            "random": self._parts.ranks.gather(random_state()),
            "best": best,
            "last": last,
        }
        weights = {name: whole(p) for name, p in self._parts.model.named_parameters()}
        made = checkpoints.Checkpoint(self._clock.step, weights, {**tensors, **pruned}, state)
        if not self._parts.ranks.first:
            return
        # Until the new best is on disk, the one before it is what --best finds.
        keep = [int(mark["step"]) for mark in (best, self._best_saved) if mark]
        try:
            self._folder.sync_metrics()
            checkpoints.save(self._folder.checkpoints, made, keep)
            if best and best["step"] == self._clock.step:
                self._best_saved = best
        except OSError as error:
            reason = f"checkpoint of step {self._clock.step} was not written: {error}"
            if required:
                raise UserError(
                    f"{reason}; make room and run this again to go on", code=Exit.CHECKPOINT
                ) from error
            self._console.warn(f"{reason}; training goes on, the older checkpoints are intact")

    def restore(self) -> dict[str, Any] | None:
        """Put everything back to the newest good checkpoint, cut metrics.jsonl to it.

        Returns the checkpoint's state; None when there is none.
        """
        if self._parts.ranks.first:
            checkpoints.remove_unfinished(self._folder.checkpoints)
        self._parts.ranks.barrier()
        found = checkpoints.load_last(self._folder.checkpoints, self._console.warn)
        if found is None:
            self._folder.cut_metrics(0, evaluated=False)
            return None
        try:
            _refuse_misshapen(found.state)
            self._put_back(found)
        except _MISFITS as error:
            if exhaustion.is_exhaustion(error):
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
        self._console.say(f"going on after step {found.step}")
        return found.state

    def _put_back(self, found: checkpoints.Checkpoint) -> None:
        load_model(self._parts.model, found)
        pruned = {k: t for k, t in found.optim.items() if k.startswith(_PRUNING)}
        tensors = {k: t for k, t in found.optim.items() if k not in pruned}
        load_optimizer(self._parts.optimizer, tensors, found.state["optimizer"])
        self._parts.pruner.load({k.removeprefix(_PRUNING): t for k, t in pruned.items()})
        self._parts.precision.load(found.state["precision"])
        states = found.state["random"]
        if len(states) == self._parts.ranks.count:  # else each rank goes on from its seed
            load_random_state(states[self._parts.ranks.rank])
        self._clock.resume(found.step, found.state["elapsed"])
        self._best_saved = found.state["best"]


def _refuse_misshapen(state: dict[str, Any]) -> None:
    """Raise ValueError where the entries of a checkpoint's state are of other kinds than ours."""
    wrong = mismatch(state, _SHAPE)
    for name in ("best", "last"):
        wrong = wrong or (state[name] and mismatch(state[name], _MARK))
    if wrong:
        raise ValueError(wrong)


def load_model(model: Any, found: checkpoints.Checkpoint) -> None:
    """Copy a checkpoint's weights into `model`. Raises UserError where they do not fit."""
    wanted = dict(model.named_parameters())
    if wrong := wanted.keys() ^ found.model.keys():
        raise UserError(f"the checkpoint is of another model: {', '.join(sorted(wrong)[:3])}")
    for name, parameter in wanted.items():
        value = found.model[name]  # once: it may be made only now
        if parameter.shape != value.shape:
            have, need = tuple(value.shape), tuple(parameter.shape)
            raise UserError(f"the checkpoint has {name} of shape {have}, the model needs {need}")
        parameter.data.copy_(part_like(value, parameter))
