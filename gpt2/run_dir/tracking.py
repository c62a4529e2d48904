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
    """A run as a tracker has it. Any method may raise anything, or never return."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step."""
        ...

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text that the model wrote after a step."""
        ...

    def close(self) -> None:
        """Bring what was logged to where it belongs."""
        ...


class LibraryRun:
    """A Tracker of a library's run that has log(values, step=) and finish(), as several do."""

    def __init__(self, run: Any, as_text: Callable[[str], Any]) -> None:
        """`as_text` makes of a text what the library shows with its lines as they are."""
        self._run, self._as_text = run, as_text

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step."""
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text that the model wrote after a step."""
        self._run.log({name: self._as_text(text)}, step=step)

    def close(self) -> None:
        """End the run in the library."""
        self._run.finish()


#: Opens the tracker of a run: its folder, its name, the options of the run, those of the tracker.
Open = Callable[[Path, str, Mapping[str, Any], Any], Tracker]
_Line = tuple[int, dict[str, float]] | tuple[int, str, str]


class Tracking:
    """Passes the numbers of a run on to a tracker, in a thread that nothing waits for.

    The tracker is opened by the first values, works in the folder `tracker` of the run and has the
    same name whenever the run goes on. Of a tracker that fails or stalls `warn` is told once, by
    the thread that calls; then it gets nothing more.
    """

    def __init__(
        self,
        open_tracker: Open,
        run: Path,
        config: Mapping[str, Any],
        options: Any,
        warn: Callable[[str], None],
    ) -> None:
        self.warn = warn
        self._open, self._run, self._config, self._options = open_tracker, run, config, options
        self._lines: queue.Queue[_Line | None] = queue.Queue(ROOM)
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._given_up = False

    def log(self, step: int, values: Mapping[str, Any], prefix: str = "") -> None:
        """Pass on the finite numbers among `values`, under their names with `prefix`; at once."""
        numbers = {
            prefix + name: float(value)
            for name, value in values.items()
            if name not in _LEFT_OUT and isinstance(value, int | float) and math.isfinite(value)
        }
        self._begin()
        self._put((step, numbers))

    def text(self, step: int, name: str, text: str) -> None:
        """Pass on a text that the model wrote; at once."""
        self._begin()
        self._put((step, name, text))

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

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self._thread.start()

    def _put(self, line: _Line | None) -> None:
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
        self.warn(f"--tracker is dropped: {reason}; the run directory has everything")

    def _work(self) -> None:
        try:
            folder = self._run / "tracker"
            name = name_of(self._run, folder, self._config.get("name", ""))
            tracker = self._open(folder, name, self._config, self._options)
            while (line := self._lines.get()) is not None:
                if len(line) == 2:
                    tracker.log(*line)
                else:
                    tracker.text(*line)
            tracker.close()
        except BaseException as error:  # a foreign library's, which may even call sys.exit
            text = str(error).strip().splitlines() or [""]
            self._failure = f"{type(error).__name__}: {text[0]}".removesuffix(": ")


def name_of(run: Path, folder: Path, name: str = "") -> str:
    """Return the name of `run` among all that a tracker knows: the same when it resumes.

    It begins with `name`, or with that of the run directory. It ends with an id that is kept in
    `folder`.
    """
    own = folder / "id"
    if not own.exists():
        folder.mkdir(exist_ok=True)
        own.write_text(uuid.uuid4().hex[:12] + "\n", encoding="ascii")
    return f"{name or run.name}-{own.read_text(encoding='ascii').strip()}"


def as_code(text: str) -> str:
    """Indent a text, so that a tracker's Markdown keeps its lines as they are."""
    return "\n".join("    " + line for line in text.split("\n"))
