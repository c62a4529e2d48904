"""A watchdog: when nothing moves for too long, it prints all stacks and ends the process."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

from gpt2.config.errors import Exit
from gpt2.machine.process_end import end_process

#: Limits in seconds outside of steps: for building, compiling and the first step; for the rest.
START, LONG = 1800.0, 3600.0
#: auto: the limit is TIMES the median of the last RECENT steps.
TIMES, RECENT = 20.0, 50
#: Seconds between two checks, at most.
INTERVAL = 1.0
#: Smallest limit of the backstop, in seconds. Unlike the watchdog it counts the time while a
#: process was stopped or frozen, so it must be late rather than wrong.
BACKSTOP = 1800.0
#: Seconds for the last words.
_PATIENCE = 5.0
_STDERR = 2


class Watchdog:
    """Thread that ends the process, exit 7, when nothing is reported for longer than a limit.

    `timeout` is the limit of a step in seconds: None for TIMES the usual step but at least `least`,
    0 for no watchdog. Before the end it writes all stacks to stderr, and passes the reason to
    `last_words`. Time counts only while the thread itself runs: not while the machine was suspended
    (CLOCK_MONOTONIC), the process stopped, or the container frozen. When not even the thread can
    run, faulthandler's own timer prints the stacks and exits 1, at 1.5 times the limit but not
    before BACKSTOP.
    """

    def __init__(
        self, timeout: float | None, least: float, last_words: Callable[[str], None]
    ) -> None:
        self._timeout, self._least, self._last_words = timeout, least, last_words
        self._active = timeout != 0
        self._usual: deque[float] = deque(maxlen=RECENT)
        self._since = time.monotonic()
        self._beats = 0
        self._seen, self._idle, self._looked = 0, 0.0, self._since  # used by the thread only
        self._suspended = False
        self._before: Any = None  # the former handler of SIGTSTP
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._now = ("the start of the run", self._at_least(START))

    @property
    def doing(self) -> str:
        """Return the current work: "step 12", "an evaluation"."""
        return self._now[0]

    @property
    def step_seconds(self) -> float | None:
        """Return the seconds of a usual step, the median of the last; None before the first."""
        return statistics.median(self._usual) if self._usual else None

    def alive(self, *_: object) -> None:
        """Report that something moved: time counts from here. Accepts the arguments of a hook."""
        self._beats += 1

    def starting(self) -> None:
        """Report that the first step, and all before it, is still to come (again)."""
        self._now = ("the start of the run", self._at_least(START))
        self.alive()

    def step_done(self) -> None:
        """Report that a step was computed; this also measures its time."""
        self._usual.append(time.monotonic() - self._since)
        self.alive()

    def next_step(self, number: int) -> None:
        """Report that step `number`, not the first, begins and all before it is recorded."""
        usual = statistics.median(self._usual)
        auto = max(self._least, TIMES * usual)
        self._now = (f"step {number}", auto if self._timeout is None else self._timeout)
        self._since = time.monotonic()
        self.alive()

    @contextlib.contextmanager
    def during(self, what: str, limit: float = LONG) -> Iterator[None]:
        """Return the context of work that is not a step and may take longer between two reports."""
        before, self._now = self._now, (what, self._at_least(limit))
        self.alive()
        try:
            yield
        finally:
            self._now = before
            self.alive()

    def _at_least(self, limit: float) -> float:
        return max(limit, self._timeout or 0.0)

    def __enter__(self) -> Self:
        if self._active:
            self._looked = time.monotonic()
            with contextlib.suppress(ValueError):  # only the main thread may
                self._before = signal.signal(signal.SIGTSTP, self._stopped)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._over.set()
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            if self._before is not None:
                signal.signal(signal.SIGTSTP, self._before)

    def look(self) -> None:
        """Check once, and act on it."""
        now = time.monotonic()
        # In a longer gap this thread did not run, and so perhaps no other.
        self._idle += min(now - self._looked, 2.0 * self._interval)
        self._looked = now
        if self._beats != self._seen:
            self._seen, self._idle = self._beats, 0.0
        what, limit = self._now
        if self._idle > limit:
            self._end(f"{what}: nothing has moved for {limit:.0f} s")
        if not self._suspended:
            later = max(1.5 * limit, BACKSTOP)
            faulthandler.dump_traceback_later(later, exit=True, file=_STDERR)

    @property
    def _interval(self) -> float:
        return min(INTERVAL, self._now[1] / 8.0)

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self.look()

    def _end(self, reason: str) -> None:
        end_process(Exit.HANG, lambda: self._speak(reason), _PATIENCE)

    def _speak(self, reason: str) -> None:
        with contextlib.suppress(OSError):
            faulthandler.dump_traceback(_STDERR, all_threads=True)
        self._last_words(reason)

    def _stopped(self, number: int, _: FrameType | None) -> None:
        """Stop as Ctrl-Z asks, without the backstop, which would count the time."""
        self._suspended = True
        faulthandler.cancel_dump_traceback_later()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # returns at SIGCONT
        signal.signal(number, self._stopped)
        self._suspended = False
