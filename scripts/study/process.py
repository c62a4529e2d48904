"""One cell's process: started in a group of its own, ended with that group, told by its end."""

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

#: What an exit code of train.py says of a run; any other is a crash.
KINDS: dict[int, str] = {
    Exit.CONFIG: "config",
    Exit.DATA: "data",
    Exit.CHECKPOINT: "checkpoint",
    Exit.DIVERGED: "diverged",
    Exit.MEMORY: "memory",
    Exit.HANG: "hang",
}
#: What a second attempt, from the last checkpoint, can get past.
WORTH_ANOTHER = frozenset({"checkpoint", "memory", "hang", "crash"})
#: Seconds that a process has to save what it has, before it is killed, and bytes that it is given
#: another second for.
GRACE, SLOWEST = 60.0, 50e6
_TAIL_LINES, _TAIL_BYTES = 15, 8192
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG (linux/prctl.h)


class CellProcess:
    """A running cell. `output` gets what it prints, after what is there.

    `checkpoint` are the bytes that it saves when it is asked to end.
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
        self.ended_for: str | None = None  # why it was ended by us
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
                start_new_session=True,  # Ctrl-C in the terminal is the runner's alone
                preexec_fn=self._end_with_the_runner,  # noqa: PLW1509 - the other thread waits
            )

    def _end_with_the_runner(self) -> None:
        """In the new process: be told to save and end when the runner dies, also by kill -9."""
        if self._libc is not None:
            self._libc.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
            if os.getppid() != self._runner:  # it died before this was said
                os._exit(Exit.PREEMPTED)

    @property
    def pid(self) -> int:
        """The process, which leads the group of its own."""
        return self._process.pid

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs; kills it when its time to save is over."""
        code = self._process.poll()
        told = self._told
        if code is None and told is not None and time.monotonic() - told > GRACE + self._saving:
            self.kill()
        if code is not None:
            end_group(self.pid, signal.SIGKILL)  # what it started and left behind
        return code

    def stop(self, why: str | None = None) -> None:
        """Ask it to save and end, once; it is killed when it does not."""
        if self._told is None:
            self._told, self.ended_for = time.monotonic(), why
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """Kill it and what it started; nothing else."""
        end_group(self.pid, signal.SIGKILL)

    def tail(self) -> str:
        """Return the last lines that this process printed."""
        with self._output.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._from, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return "\n".join(text.rstrip().splitlines()[-_TAIL_LINES:])


def end_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if it is still there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kind_of(code: int, process: CellProcess) -> str:
    """Classify how a cell failed, by its exit code."""
    return "hang" if process.ended_for else KINDS.get(code, "crash")


def explain(code: int, process: CellProcess) -> str:
    """Say in words how a process ended."""
    if process.ended_for:
        return process.ended_for
    if code == -signal.SIGKILL:
        return "killed from outside (by the system, if memory ran out)"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}"
