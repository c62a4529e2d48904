"""A tracker beside the run directory: it is given copies, and may fail or stall at no cost."""

from __future__ import annotations

import math
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

#: Lines that a tracker may lag behind before it is given up.
ROOM = 1000
#: Seconds that the end of a run waits for its tracker.
PATIENCE = 10.0
#: Not a result: when a line was written.
_LEFT_OUT = ("step", "time")


class Tracker(Protocol):
    """A run as a tracker has it. Either method may raise anything, or never return."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step."""
        ...

    def close(self) -> None:
        """Bring what was logged to where it belongs."""
        ...


class LibraryRun:
    """A Tracker of a library's run that has log(values, step=) and finish(), as several do."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run in the library."""
        self._run.finish()


#: Opens the tracker of a run: its folder, its name, its options.
Open = Callable[[Path, str, Mapping[str, Any]], Tracker]


class Tracking:
    """Passes the numbers of a run on to a tracker, in a thread that nothing waits for.

    The tracker is opened by the first values, works in the folder `tracker` of the run and has the
    same name whenever the run goes on. Of a tracker that fails or stalls `warn` is told once, by
    the thread that calls; then it gets nothing more.
    """

    def __init__(
        self, open_tracker: Open, run: Path, config: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        self.warn = warn
        self._open, self._run, self._config = open_tracker, run, config
        self._lines: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(ROOM)
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._given_up = False

    def log(self, step: int, values: Mapping[str, Any], prefix: str = "") -> None:
        """Pass on the finite numbers among `values`, under their names with `prefix`; at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self._thread.start()
        numbers = {
            prefix + name: float(value)
            for name, value in values.items()
            if name not in _LEFT_OUT and isinstance(value, int | float) and math.isfinite(value)
        }
        self._put((step, numbers))

    def close(self) -> None:
        """Let the tracker take what is left, and wait for it, but not for long."""
        if self._thread is None:
            return
        self._put(None)
        if self._given_up:
            return
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._give_up(f"it was not done {PATIENCE:g} s after the run")
        elif self._failure is not None:
            self._give_up(self._failure)

    def _put(self, line: tuple[int, dict[str, float]] | None) -> None:
        if self._given_up:
            return
        if self._failure is not None:
            self._give_up(self._failure)
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._give_up(f"it is {ROOM} lines behind")

    def _give_up(self, reason: str) -> None:
        self._given_up = True
        self.warn(f"--tracker is given up: {reason}; the run directory has everything")

    def _work(self) -> None:
        try:
            folder = self._run / "tracker"
            tracker = self._open(folder, name_of(self._run, folder), self._config)
            while (line := self._lines.get()) is not None:
                tracker.log(*line)
            tracker.close()
        except BaseException as error:  # a foreign library's, which may even call sys.exit
            text = str(error).strip().splitlines() or [""]
            self._failure = f"{type(error).__name__}: {text[0]}".removesuffix(": ")


def name_of(run: Path, folder: Path) -> str:
    """Return the name of `run` among all that a tracker knows: the same when it goes on."""
    own = folder / "id"
    if not own.exists():
        folder.mkdir(exist_ok=True)
        own.write_text(uuid.uuid4().hex[:12] + "\n", encoding="ascii")
    return f"{run.name}-{own.read_text(encoding='ascii').strip()}"
