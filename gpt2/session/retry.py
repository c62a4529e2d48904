"""Out of memory: try the next smaller divisor of the micro-batch, and start the attempt again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from gpt2.checkpoint.optimizer_state import load_random_state, random_state
from gpt2.config.errors import Exit, UserError
from gpt2.config.text import first_line, shown_path
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
from gpt2.training.loop import Parts, Progress
from gpt2.training.rollback import Rollback, RolledBackError

#: Steps after which peak memory is known: the first one creates the optimizer state; the second is
#: the first to hold it together with all activations.
TRIAL_STEPS = 2


class OutOfMemoryRetry(Exception):  # noqa: N818 - nobody sees it as an error
    """The micro-batch does not fit, and the run can start again with a smaller one."""


def retry_on_oom(
    config: Config,
    folder: RunFolder,
    ranks: DistributedContext,
    attempt: Callable[[Config, bool, Rollback | None], int],
) -> int:
    """Run `attempt`, with ever smaller micro-batches while it raises OutOfMemoryRetry.

    Every attempt builds all parts anew, from the seed or the last checkpoint. So its result equals
    that of a run configured with this micro-batch from the start. `attempt` is told whether it is a
    repetition, and the last rollback: a RolledBackError, too, starts again from the checkpoint.
    Raises UserError when even a micro-batch of 1 is too large.
    """
    console = Console(folder.log, silent=not ranks.first)
    again, rollback = False, None
    while True:
        reason = None
        try:
            return attempt(config, again, rollback)
        except OutOfMemoryRetry as error:
            reason = str(error)
        except RolledBackError as error:
            rollback = error.rollback
        # Only here the traceback, which held what the attempt had built, is gone.
        if config.machine.compile:
            torch._dynamo.reset()
        release()
        again = True
        if reason is not None:
            config = _with_smaller_batch(config, folder, console, reason)


def _with_smaller_batch(config: Config, folder: RunFolder, console: Console, reason: str) -> Config:
    """Return `config` with the next smaller micro-batch, and record it in the run directory."""
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
        f"out of memory with --batch-size {before.batch_size}: continuing with "
        f"--batch-size {batch} --gradient-accumulation {after.gradient_accumulation}, "
        "the same samples in every step"
    )
    return config


@contextmanager
def first_steps(
    training: TrainConfig, ranks: DistributedContext, progress: Progress
) -> Iterator[None]:
    """Turn out of memory in the first TRIAL_STEPS steps into an OutOfMemoryRetry.

    These are ordinary steps, so the trial costs nothing where memory suffices. With several ranks
    the others would wait in the middle of a step: see try_micro_batch.
    """
    first = progress.step
    try:
        yield
    except ERRORS as error:
        early = progress.step - first < TRIAL_STEPS and ranks.world_size == 1
        if not is_exhaustion(error) or not early or smaller_batch(training.batch_size) is None:
            raise
        raise OutOfMemoryRetry(first_line(error)) from error


def try_micro_batch(parts: Parts, step: int) -> None:
    """Run one micro-step on each of several ranks, and agree on whether it fits on all.

    It has no lasting effect: gradients are dropped and random generators restored. It does nothing
    for a single rank, which can start again at any time, nor for sharded ranks, which cannot
    compute alone. Raises OutOfMemoryRetry on all ranks when it does not fit on one.
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
        raise OutOfMemoryRetry(reason or "on another rank")


@contextmanager
def explain_out_of_memory(
    parts: Parts, progress: Progress, training: TrainConfig, folder: RunFolder
) -> Iterator[None]:
    """Turn out of memory during a run into a UserError: what takes memory, and how to resume.

    On CUDA, torch's own summary of the device's memory goes into the log.
    """
    try:
        yield
    except ERRORS as error:
        if not is_exhaustion(error):
            raise
        device = parts.precision.device
        if device.type == "cuda":
            with suppress(OSError):  # a full disk must not hide the error below
                folder.log.write(torch.cuda.memory_summary(device) + "\n")
        held = breakdown(parts.optimizer, device)
        batch, way = training.batch_size, way_out(training)
        if smaller_batch(batch) is not None:
            way += f"; the same command with these and --run-dir {shown_path(folder.path)} resumes"
        raise UserError(
            f"out of memory with --batch-size {batch} after step {progress.step} ({held}): {way}",
            code=Exit.MEMORY,
            everywhere=False,
        ) from error
