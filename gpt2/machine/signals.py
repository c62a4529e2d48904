"""Stop on request: a signal sets a flag; the loop finishes its step and saves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

from gpt2.config.errors import Exit
from gpt2.machine.process_end import end_process

#: Seconds for Python's own handler to end the process, unless a long call blocks it.
_GRACE = 0.2
#: Seconds for the last line: the terminal may hang.
_PATIENCE = 1.0
_STDERR = 2

#: Returns the line that answers a signal (by its name); `again`: this one stops at once.
Notice = Callable[[str, bool], str]


def _silent(_: str, again: bool) -> str:  # noqa: ARG001 - a Notice
    return ""


class StopRequest:
    """Context in which SIGTERM, SIGINT, SIGHUP and SIGUSR1 request a stop instead of killing.

    A second SIGINT ends the process at once; the checkpoint on disk is unchanged. A SIGHUP that was
    ignored, as under nohup, stays ignored. The thread that guards host memory may call `ask`, also
    outside of the context.

    A thread answers at once with the line from `notice`. A call outside of Python, such as the
    backward pass of a large model on a CPU, can block signal handlers for minutes.

    signal: the first request, in words.
    low_memory: whether that was low memory.
    """

    def __init__(self, notice: Notice = _silent) -> None:
        self.signal: str | None = None
        self.low_memory = False
        self.notice = notice
        self._previous: dict[int, signal._HANDLER] = {}
        self._ending = threading.Event()
        self._ours: tuple[socket.socket, socket.socket] | None = None
        self._wakeup_before = -1
        self._thread: threading.Thread | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def ask(self, reason: str) -> None:
        """Request a stop because of low host memory; `reason` says how much is left."""
        if self.signal is None:
            self.signal, self.low_memory = f"the memory guard ({reason})", True

    def __enter__(self) -> StopRequest:
        reader, writer = self._ours = socket.socketpair()
        writer.setblocking(False)
        # Python's C-level handler writes the signal's number there, whatever is running.
        self._wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._answer, args=(reader,), daemon=True)
        self._thread.start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            # Shells ignore SIGINT for background jobs; it is a request all the same.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        if self._ours is not None and self._thread is not None:
            self._ours[1].close()  # ends the thread's loop
            self._thread.join()
            self._ours[0].close()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == "SIGINT":
            self._end()
        self.signal = signal.Signals(number).name

    def _answer(self, reader: socket.socket) -> None:
        """Answer each kind of signal once, and make the second SIGINT end the process."""
        answered: set[int] = set()
        last = 0
        while numbers := reader.recv(64):
            for number in numbers:
                if number not in self._previous:
                    continue
                if number == signal.SIGINT == last:
                    if not self._ending.wait(_GRACE):
                        self._end()
                elif number not in answered:
                    answered.add(number)
                    _say(self.notice(signal.Signals(number).name, False))
                last = number

    def _end(self) -> None:
        """End the process without clean-up: nothing half written can pass for a checkpoint."""
        self._ending.set()
        end_process(
            Exit.INTERRUPTED, lambda: _say(self.notice(signal.SIGINT.name, True)), _PATIENCE
        )


def _say(line: str) -> None:
    """Write a line to stderr, bypassing Python's buffer, which another thread may hold."""
    if not line:
        return
    with contextlib.suppress(OSError, ValueError):  # a closed terminal ends no run
        # The progress bar is in the last line: the answer goes below it.
        start = "\n" if sys.stderr.isatty() else ""
        os.write(_STDERR, f"{start}{line}\n".encode())
