"""Guards of a session: against too little host memory, and against hanging."""

from __future__ import annotations

import faulthandler
import sys
from contextlib import AbstractContextManager, nullcontext, suppress

from torch import nn

from gpt2.config.errors import Exit, UserError
from gpt2.config.sizes import show_size
from gpt2.config.text import shown_path
from gpt2.config.typed import Config, MachineConfig
from gpt2.machine import host_memory as memory
from gpt2.machine.ranks import TIMEOUT, DistributedContext
from gpt2.machine.signals import StopRequest
from gpt2.machine.watchdog import LONG, Watchdog
from gpt2.run_dir.folder import RunFolder, now, read_json
from gpt2.training.loop import Progress, Recorder, Step

#: Smallest --hang-timeout auto per step, in seconds: for a plain run, for a compiled run, which may
#: compile again, and for several ranks, where one waits for another's checkpoint.
STEP, COMPILED, SEVERAL = 60.0, 600.0, 1.5 * TIMEOUT.total_seconds()


def check_host(config: MachineConfig) -> memory.Host:
    """Check the host's memory before anything is built.

    Raises UserError: exit 6 when memory is low already, exit 2 for a limit that cannot be watched.
    """
    host = memory.Host()
    if host.watched:
        memory.refuse_if_low(host)
    elif (limit := config.host_memory_limit) is not None:
        raise UserError(
            f"--host-memory-limit {show_size(limit)} cannot be watched on this system, which has "
            "no /proc/meminfo: leave it at auto"
        )
    return host


def guard(
    host: memory.Host,
    config: MachineConfig,
    folder: RunFolder,
    ranks: DistributedContext,
    stop: StopRequest,
) -> AbstractContextManager[object]:
    """Return the context in which host memory is watched; low memory requests a `stop`."""
    if not host.watched:
        if ranks.first:
            print("host memory is not watched: this system has no /proc/meminfo", flush=True)
        return nullcontext()

    def last_words(reason: str) -> None:
        line = (
            f"out of host memory, ended at once: {reason}; the last checkpoint is intact, "
            "a smaller --batch-size with more --gradient-accumulation needs less"
        )
        _speak_last(folder, line, Exit.MEMORY)

    own = memory.budget(config.host_memory_limit, host, ranks.here)
    return memory.Guard(host, own, stop.ask, last_words)


def watchdog(config: Config, folder: RunFolder, ranks: DistributedContext) -> Watchdog:
    """Return the context in which a run that hangs is ended with exit 7."""

    def last_words(reason: str) -> None:
        line = (
            f"hung: {reason}; the stacks above say where; the last checkpoint is intact: the "
            f"same command with --run-dir {shown_path(folder.path)} resumes; what may take longer "
            "needs a larger --hang-timeout (seconds, 0 waits for ever)"
        )
        _speak_last(folder, line, Exit.HANG, stacks=True)

    least = COMPILED if config.machine.compile else STEP
    least = max(least, SEVERAL) if ranks.world_size > 1 else least
    if config.prune is not None and config.prune.calibration_sequences is not None:
        least = LONG  # one step prunes all layers, one after the other
    return Watchdog(config.machine.hang_timeout, least, last_words)


class WatchdogRecorder:
    """A recorder that also reports steps and forward passes to a watchdog."""

    def __init__(
        self, recorder: Recorder, watchdog: Watchdog, progress: Progress, model: nn.Module
    ) -> None:
        self._recorder, self._watchdog, self._clock = recorder, watchdog, progress
        # Called in every micro-step and every batch of an evaluation.
        model.register_forward_hook(watchdog.alive)

    def after_step(self, step: Step) -> bool:
        """Record the step; reading its loss waits for the device, so this is part of the step."""
        self._watchdog.step_done()
        more = self._recorder.after_step(step)
        self._watchdog.next_step(self._clock.step + 1)
        return more


def _speak_last(folder: RunFolder, line: str, code: Exit, *, stacks: bool = False) -> None:
    """Report why the process ends: on the console, in the log (with all stacks), in run.json."""
    with suppress(OSError, ValueError):
        print(f"train.py: error: {line}", file=sys.stderr, flush=True)
    if stacks:
        with suppress(OSError, ValueError):  # only the first rank's log is a file
            folder.log.flush()
            faulthandler.dump_traceback(folder.log, all_threads=True)
    with suppress(OSError, ValueError, UserError):
        folder.log.write(f"error: {line}\n")
        folder.log.flush()
        record = read_json(folder.path, "run.json")
        if record["status"] == "running":
            ended = {"status": "failed", "exit_code": int(code), "end": now()}
            folder.write_json("run.json", {**record, **ended})
