"""One cell's process: started in its own process group, and ended with it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gpt2.config.errors import Exit

#: The kind of a failure by train.py's exit code; any other code is a crash.
KINDS: dict[int, str] = {
    Exit.CONFIG: "config",
    Exit.DATA: "data",
    Exit.CHECKPOINT: "checkpoint",
    Exit.DIVERGED: "diverged",
    Exit.MEMORY: "memory",
    Exit.HANG: "hang",
}
#: Failures that a second attempt, from the last checkpoint, can overcome.
WORTH_ANOTHER = frozenset({"checkpoint", "memory", "hang", "crash"})
#: Seconds for a process to save before it is killed, and the bytes for which it gets another
#: second.
GRACE, SLOWEST = 60.0, 50e6
_TAIL_LINES, _TAIL_BYTES = 15, 8192
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG (linux/prctl.h)


class CellProcess:
    """A running cell. Its output is appended to `output`.

    `checkpoint`: the bytes that it saves when it is asked to end.
    """

    def __init__(
        self,
        command: Sequence[str],
        here: Path,
        output: Path,
        environment: Mapping[str, str],
        checkpoint: int = 0,
    ) -> None:
        self._saving = checkpoint / SLOWEST
        self.started = time.monotonic()
        self.ended_for: str | None = None  # why the runner ended it
        self._told: float | None = None
        self._output = output
        self._runner = os.getpid()
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        with output.open("ab") as file:
            self._from = file.tell()
            self._process = subprocess.Popen(
                command,
                cwd=here,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for the runner only
                preexec_fn=self._end_with_the_runner,  # noqa: PLW1509 - the other thread waits
            )

    def _end_with_the_runner(self) -> None:
        """In the new process: ask for SIGTERM when the runner dies, also by kill -9."""
        if self._libc is not None:
            self._libc.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
            if os.getppid() != self._runner:  # it died before this call
                os._exit(Exit.PREEMPTED)

    @property
    def pid(self) -> int:
        """Return the process id, also that of its group."""
        return self._process.pid

    @property
    def seconds(self) -> float:
        """Return how long it has been running."""
        return time.monotonic() - self.started

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs; kill it when its time to save is over."""
        code = self._process.poll()
        told = self._told
        if code is None and told is not None and time.monotonic() - told > GRACE + self._saving:
            self.kill()
        if code is not None:
            end_group(self.pid, signal.SIGKILL)  # what it started and left behind
        return code

    def stop(self, why: str | None = None) -> None:
        """Ask it to save and end, once; if it does not, poll() kills it."""
        if self._told is None:
            self._told, self.ended_for = time.monotonic(), why
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """Kill it and what it started, but nothing else."""
        end_group(self.pid, signal.SIGKILL)

    def tail(self) -> str:
        """Return the last lines that this process printed."""
        with self._output.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._from, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return "\n".join(text.rstrip().splitlines()[-_TAIL_LINES:])


def end_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if it still exists."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kind_of(code: int, process: CellProcess) -> str:
    """Classify a cell's failure, by its exit code."""
    return "hang" if process.ended_for else KINDS.get(code, "crash")


def explain(code: int, process: CellProcess) -> str:
    """Describe how a process ended."""
    if process.ended_for:
        return process.ended_for
    if code == -signal.SIGKILL:
        return "killed from outside (by the system, if memory ran out)"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}"
