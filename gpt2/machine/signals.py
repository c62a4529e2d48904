"""Stopping on request: a flag is set, the loop finishes its step and saves."""

from __future__ import annotations

import os
import signal
from types import FrameType

from gpt2.config.errors import Exit


class StopRequest:
    """Context in which SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask for a stop instead of killing.

    A second SIGINT ends the process at once; the checkpoint on disk stays as it is. A SIGHUP that
    was ignored, as nohup has it, stays so. Of other threads, the one that guards host memory may
    `ask`, inside of the context or not.

    signal: what asked first, in words. low_memory: whether that was a want of memory.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self.low_memory = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def ask(self, reason: str) -> None:
        """Ask for a stop for want of host memory; `reason` says how much there is."""
        if self.signal is None:
            self.signal, self.low_memory = f"the memory guard ({reason})", True

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            # Shells ignore SIGINT for what they start beside them; it is a request all the same.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == "SIGINT":
            # No clean-up: nothing that is half written can be taken for a checkpoint.
            os._exit(Exit.INTERRUPTED)
        self.signal = signal.Signals(number).name
