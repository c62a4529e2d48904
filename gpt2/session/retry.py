"""Fitting a run into memory: a micro-batch that proves too large is lowered, the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from gpt2.checkpoint.optimizer_state import load_random_state, random_state
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import Config, TrainConfig
from gpt2.machine.out_of_memory import (
    ERRORS,
    breakdown,
    is_exhaustion,
    release,
    smaller_batch,
    way_out,
)
from gpt2.machine.ranks import DistributedContext
from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import RunFolder, read_json
from gpt2.run_dir.resume import with_batch, write_batch
from gpt2.session.messages import shown
from gpt2.training.loop import Clock, Parts
from gpt2.training.rollback import Rollback, RolledBackError

#: Steps after which the peak is known: the first one makes the optimizer's state, and the second
#: is the first that holds it together with all activations.
TRIAL_STEPS = 2

#: Adds numbers up over ranks.
Total = Callable[[Sequence[float]], Sequence[float]]


class TooLargeError(Exception):
    """The micro-batch does not fit, and the run can begin anew with a smaller one."""


class _ElsewhereError(Exception):
    """Another rank ran out of memory."""


def fit(
    config: Config,
    folder: RunFolder,
    ranks: DistributedContext,
    attempt: Callable[[Config, bool, Rollback | None], int],
) -> int:
    """Run `attempt`, with ever smaller micro-batches while it raises TooLargeError.

    Every attempt builds all parts anew, from the seed or the last checkpoint, so that nothing of
    the one before is left, and its result is that of a run configured so from the start. It is told
    whether it is a further one, and of the last rollback: after a RolledBackError, too, the run
    begins anew from its checkpoint. Raises UserError when even a micro-batch of 1 is too large.
    """
    console = Console(folder.log, silent=not ranks.first)
    again, rollback = False, None
    while True:
        reason = None
        try:
            return attempt(config, again, rollback)
        except TooLargeError as error:
            reason = str(error)
        except RolledBackError as error:
            rollback = error.rollback
        # Only here is the traceback gone that held what the attempt had built.
        if config.machine.compile:
            torch._dynamo.reset()
        release()
        again = True
        if reason is not None:
            config = _lowered(config, folder, console, reason)


def _lowered(config: Config, folder: RunFolder, console: Console, reason: str) -> Config:
    """Return `config` with the next smaller micro-batch, which the run directory notes."""
    before = config.train
    batch = smaller_batch(before.batch_size)
    if batch is None:
        raise UserError(f"out of memory with --batch-size 1: {way_out(before)}", code=Exit.MEMORY)
    config = with_batch(config, batch)
    after = config.train
    write_batch(folder, batch)
    record = read_json(folder.path, "run.json")
    change = {"batch": "training", "from": before.batch_size, "to": batch, "error": reason}
    folder.write_json("run.json", {**record, "lowered": [*record["lowered"], change]})
    console.warn(
        f"out of memory with --batch-size {before.batch_size}: going on with --batch-size {batch} "
        f"--gradient-accumulation {after.gradient_accumulation}, the same samples in every step"
    )
    return config


@contextmanager
def trial(training: TrainConfig, ranks: DistributedContext, clock: Clock) -> Iterator[None]:
    """Context of the steps: out of memory in the first TRIAL_STEPS of them is a TooLargeError.

    They are steps as all others, so where all goes well the trial costs nothing. Of several ranks
    the others would wait in the middle of their step: see try_micro_batch.
    """
    first = clock.step
    try:
        yield
    except ERRORS as error:
        early = clock.step - first < TRIAL_STEPS and ranks.world_size == 1
        if not is_exhaustion(error) or not early or smaller_batch(training.batch_size) is None:
            raise
        raise TooLargeError(first_line(error)) from error


def try_micro_batch(parts: Parts, step: int) -> None:
    """Let each of several ranks do a micro-step alone, and agree on whether it fits all.

    It leaves no trace: gradients are dropped, random generators put back. Nothing is done for one
    rank alone, which can begin anew from anywhere, nor for ranks that share the weights, where no
    one can compute alone. Raises TooLargeError on all ranks when it does not fit one of them.
    """
    if parts.ranks.world_size == 1 or parts.ranks.sharded:
        return
    before = random_state()
    reason = ""
    try:
        inputs, targets = parts.batches.train(step, 0)
        with parts.ranks.accumulate(parts.forward, last=False):
            with parts.precision.autocast():
                loss = parts.forward(inputs, targets)
            parts.precision.backward(loss)
    except ERRORS as error:
        if not is_exhaustion(error):
            raise
        reason = first_line(error)
    parts.optimizer.zero_grad(set_to_none=True)
    load_random_state(before)
    failed, _ = parts.ranks.all_reduce_stop(bool(reason), 0.0)
    if failed:
        raise TooLargeError(reason or "on another rank")


@contextmanager
def explained(
    parts: Parts, clock: Clock, training: TrainConfig, folder: RunFolder
) -> Iterator[None]:
    """Turn running out of memory in a run under way into a UserError: what is held, how to go on.

    On CUDA the log gets torch's own summary of the device's memory.
    """
    try:
        yield
    except ERRORS as error:
        if not is_exhaustion(error):
            raise
        device = parts.precision.device
        if device.type == "cuda":
            with suppress(OSError):  # a full disk shall not hide what follows
                folder.log.write(torch.cuda.memory_summary(device) + "\n")
        held = breakdown(parts.optimizer, device)
        batch, way = training.batch_size, way_out(training)
        if smaller_batch(batch) is not None:
            way += f"; the same command with these and --run-dir {shown(folder.path)} goes on"
        raise UserError(
            f"out of memory with --batch-size {batch} after step {clock.step} ({held}): {way}",
            code=Exit.MEMORY,
            everywhere=False,
        ) from error


class EvaluationBatch:
    """The micro-batch of evaluations: one that does not fit is lowered, on all ranks alike.

    `lowered` is told of every change as run.json keeps it.
    """

    def __init__(
        self,
        size: int,
        ranks: DistributedContext,
        console: Console,
        lowered: Callable[[dict[str, Any]], None],
    ) -> None:
        self.size = size
        self._ranks, self._console, self._lowered = ranks, console, lowered

    def evaluate(self, compute: Callable[[int, Total], float | None]) -> float | None:
        """Return what `compute` gives for a micro-batch, and what adds its sums up over ranks.

        Raises UserError when even a micro-batch of 1 is too large.
        """
        while True:
            try:
                return compute(self.size, self._total)
            except _ElsewhereError:
                reason = "on another rank"
            except ERRORS as error:
                if not is_exhaustion(error) or self._ranks.sharded:
                    raise
                reason = first_line(error)
                # The others wait for this rank's sums, and so learn that there are none.
                self._ranks.all_reduce_sum([0.0, 0.0, 1.0])
            release()
            self._lower(reason)

    def _total(self, values: Sequence[float]) -> list[float]:
        *sums, failed = self._ranks.all_reduce_sum([*values, 0.0])
        if failed:
            raise _ElsewhereError
        return sums

    def _lower(self, reason: str) -> None:
        before, after = self.size, smaller_batch(self.size)
        if after is None:
            raise UserError(
                "out of memory in an evaluation of one sequence at a time: "
                "a smaller --block-size or --model needs less",
                code=Exit.MEMORY,
            )
        self.size = after
        self._console.warn(
            f"out of memory in an evaluation of {before} sequences at a time: going on with {after}"
        )
        self._lowered({"batch": "evaluation", "from": before, "to": after, "error": reason})


def evaluation_batch(size: int, lowered: Sequence[dict[str, Any]]) -> int:
    """Return `size`, or what run.json's `lowered` says evaluations had to be lowered to."""
    steps: list[int] = [change["to"] for change in lowered if change["batch"] == "evaluation"]
    return min([size, *steps])


def first_line(error: BaseException) -> str:
    """Return what an error says, up to its first line end."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
