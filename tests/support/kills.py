"""A training that is killed at random instants, again and again, until it is done."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import time
import traceback
from collections import Counter
from pathlib import Path

from gpt2.config.errors import Exit, UserError
from gpt2.train import main
from tests.support import tiny

#: Dropout, accumulation, pruning and a checkpoint every other step, written in the background: all
#: that a resume must restore.
HARD = (
    "--max-steps", "24", "--dropout", "0.1", "--gradient-accumulation", "2",
    "--pruning-method", "magnitude", "--target-sparsity", "0.5", "--checkpoint-interval", "2",
    "--eval-interval", "6", "--async-checkpoint",
)  # fmt: skip


def child(data: Path, run: Path, more: tuple[str, ...]) -> int:
    """Train in a forked process, which spares the import of torch; return its number.

    This process must have one thread: nothing that several hold is half done in the child.
    """
    pid = os.fork()
    if pid:
        return pid
    code = int(Exit.BUG)
    try:
        with contextlib.ExitStack() as stack:
            said = stack.enter_context((run.parent / "said").open("a"))
            stack.enter_context(contextlib.redirect_stdout(said))
            stack.enter_context(contextlib.redirect_stderr(said))
            try:
                code = int(main(tiny.flags(data, run, *more)))
            except UserError as error:
                print(*error.messages, sep="\n")
                code = int(error.code)
            except Exception:
                traceback.print_exc()
    finally:
        os._exit(code)


def trained_and_killed(
    data: Path, run: Path, more: tuple[str, ...], rng: random.Random, kills: int, longest: float
) -> Counter[str]:
    """Train in `run` until it is done, killed `kills` times within `longest` seconds of a start.

    Returns how often with what. Raises AssertionError where a process ends as it may not.
    """
    done: Counter[str] = Counter()
    run.parent.mkdir(parents=True, exist_ok=True)
    while not (run / "summary.json").exists():
        pid = child(data, run, more)
        number: signal.Signals | None = None
        if done.total() < kills:
            time.sleep(rng.uniform(0.0, longest))
            number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        allowed = {0, int(Exit.PREEMPTED)} if number != signal.SIGKILL else {0, -signal.SIGKILL}
        if number == signal.SIGTERM:
            allowed.add(-signal.SIGTERM)  # before there was anything to save
        assert code in allowed, f"{number}: {code}\n{(run.parent / 'said').read_text()[-3000:]}"
        if code != 0 and number is not None:
            done[number.name] += 1
        # What a kill left is no checkpoint, and whatever has the name of one is whole.
        for path in (run / "checkpoints").glob("step-*"):
            assert (path / "MANIFEST.json").exists(), path
    return done


def differences(one: Path, other: Path) -> list[str]:
    """Say in what two finished runs differ: weights, optimizer, lines, results but for times."""
    found = []
    if tiny.checkpoint_bytes(one) != tiny.checkpoint_bytes(other):
        found.append("the tensors of the last checkpoint")
    if tiny.metrics(one) != tiny.metrics(other):
        found.append("metrics.jsonl")
    if list((other / "checkpoints").glob(".tmp-*")):
        found.append("something unfinished is left among the checkpoints")
    return found


def quietly_trained(data: Path, run: Path, more: tuple[str, ...]) -> float:
    """Train undisturbed in a forked process, as the disturbed run is; return the seconds."""
    run.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    _, status = os.waitpid(child(data, run, more), 0)
    assert os.waitstatus_to_exitcode(status) == 0, (run.parent / "said").read_text()
    return time.monotonic() - start


def prepared(folder: Path) -> Path:
    """Prepare the tiny corpus without a word; return the --data-dir."""
    with contextlib.redirect_stdout(io.StringIO()):
        return tiny.make_data(folder)
