"""Out of memory: a micro-batch that is too large gets its next divisor, and the run starts anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from gpt2.checkpoint.optimizer_state import load_random_state, random_state
from gpt2.config.errors import Exit, UserError
from gpt2.config.text import first_line
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
from gpt2.training.loop import Parts, Progress
from gpt2.training.rollback import Rollback, RolledBackError

#: Steps after which the peak is known: the first one makes the optimizer's state, and the second
#: is the first that holds it together with all activations.
TRIAL_STEPS = 2


class OutOfMemoryRetry(Exception):  # noqa: N818 - nobody sees it as an error
    """The micro-batch does not fit, and the run can begin anew with a smaller one."""


def retry_on_oom(
    config: Config,
    folder: RunFolder,
    ranks: DistributedContext,
    attempt: Callable[[Config, bool, Rollback | None], int],
) -> int:
    """Run `attempt`, with ever smaller micro-batches while it raises OutOfMemoryRetry.

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
        except OutOfMemoryRetry as error:
            reason = str(error)
        except RolledBackError as error:
            rollback = error.rollback
        # Only here is the traceback gone that held what the attempt had built.
        if config.machine.compile:
            torch._dynamo.reset()
        release()
        again = True
        if reason is not None:
            config = _with_smaller_batch(config, folder, console, reason)


def _with_smaller_batch(config: Config, folder: RunFolder, console: Console, reason: str) -> Config:
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
        f"out of memory with --batch-size {before.batch_size}: continuing with "
        f"--batch-size {batch} --gradient-accumulation {after.gradient_accumulation}, "
        "the same samples in every step"
    )
    return config


@contextmanager
def first_steps(
    training: TrainConfig, ranks: DistributedContext, progress: Progress
) -> Iterator[None]:
    """Turn running out of memory in the first TRIAL_STEPS steps into an OutOfMemoryRetry.

    They are steps as all others, so where all goes well the trial costs nothing. Of several ranks
    the others would wait in the middle of their step: see try_micro_batch.
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
    """Let each of several ranks do a micro-step alone, and agree on whether it fits all.

    It leaves no trace: gradients are dropped, random generators put back. Nothing is done for one
    rank alone, which can begin anew from anywhere, nor for ranks that share the weights, where no
    one can compute alone. Raises OutOfMemoryRetry on all ranks when it does not fit one of them.
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
            way += f"; the same command with these and --run-dir {shown(folder.path)} resumes"
        raise UserError(
            f"out of memory with --batch-size {batch} after step {progress.step} ({held}): {way}",
            code=Exit.MEMORY,
            everywhere=False,
        ) from error
