"""Stopping on request: a flag is set, the loop finishes its step and saves."""

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

#: Seconds that Python's own handler has to end the process, where no long call keeps it from that.
_GRACE = 0.2
#: Seconds for the last line: the terminal may hang.
_PATIENCE = 1.0
_STDERR = 2

#: Returns the line that answers a signal (by its name): `again` is the one that stops at once.
Notice = Callable[[str, bool], str]


def _silent(_: str, again: bool) -> str:  # noqa: ARG001 - a Notice
    return ""


class StopRequest:
    """Context in which SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask for a stop instead of killing.

    A second SIGINT ends the process at once; the checkpoint on disk stays as it is. A SIGHUP that
    was ignored, as nohup has it, stays so. Of other threads, the one that guards host memory may
    `ask`, inside of the context or not.

    A thread answers at once, with what `notice` returns, also while a call outside of Python, such
    as the backward pass of a large model on a CPU, keeps the handlers waiting for minutes.

    signal: what asked first, in words. low_memory: whether that was a want of memory.
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
        """Ask for a stop for want of host memory; `reason` says how much there is."""
        if self.signal is None:
            self.signal, self.low_memory = f"the memory guard ({reason})", True

    def __enter__(self) -> StopRequest:
        reader, writer = self._ours = socket.socketpair()
        writer.setblocking(False)
        # The C part of Python's handler writes the signal's number there, whatever is being done.
        self._wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._answer, args=(reader,), daemon=True)
        self._thread.start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            # Shells ignore SIGINT for what they start beside them; it is a request all the same.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        if self._ours is not None and self._thread is not None:
            self._ours[1].close()  # which the thread reads as the end
            self._thread.join()
            self._ours[0].close()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == "SIGINT":
            self._end()
        self.signal = signal.Signals(number).name

    def _answer(self, reader: socket.socket) -> None:
        """Answer each kind of signal once, and see that the second SIGINT ends the process."""
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
        """End the process. No clean-up: nothing half written can be taken for a checkpoint."""
        self._ending.set()
        end_process(
            Exit.INTERRUPTED, lambda: _say(self.notice(signal.SIGINT.name, True)), _PATIENCE
        )


def _say(line: str) -> None:
    """Write a line to the error stream, past what another thread may be writing there."""
    if not line:
        return
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone ends no run
        # The bar of a run stands in the last line: the answer goes below it.
        start = "\n" if sys.stderr.isatty() else ""
        os.write(_STDERR, f"{start}{line}\n".encode())
