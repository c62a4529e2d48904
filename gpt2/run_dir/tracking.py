"""A tracker beside the run directory: it gets copies, and cannot stop or delay the run."""

from __future__ import annotations

import json
import math
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

#: A tracker that lags behind by more lines is dropped.
ROOM = 1000
#: Seconds that the end of a run waits for its tracker.
PATIENCE = 10.0
#: Entries that are not results.
_LEFT_OUT = ("step", "time")


class Tracker(Protocol):
    """A tracker's view of a run. Any method may raise anything, or never return."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step."""
        ...

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text that the model wrote after a step."""
        ...

    def close(self) -> None:
        """Finish writing or sending what was logged."""
        ...


class LibraryRun:
    """A Tracker around a library's run with log(values, step=) and finish(), as several have.

    Such a library cannot take a value back. A run that was killed resumes from its last checkpoint
    and repeats some steps: their values are not logged again.
    """

    def __init__(self, run: Any, as_text: Callable[[str], Any], folder: Path) -> None:
        """Wrap `run`; `as_text` makes the library show a text with its line breaks.

        `folder` is the tracker's own. Its file `logged` has the last step of every group of names.
        """
        self._run, self._as_text = run, as_text
        self._path = folder / "logged"
        self._logged = _read_steps(self._path)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step."""
        self._log(step, values)

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text that the model wrote after a step."""
        self._log(step, {name: self._as_text(text)})

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        groups = {name.partition("/")[0] for name in values}
        if all(step <= self._logged.get(group, -1) for group in groups):
            return
        self._run.log(dict(values), step=step)
        self._logged.update(dict.fromkeys(groups, step))
        aside = self._path.with_name("logged.tmp")
        aside.write_text(json.dumps(self._logged), encoding="utf-8")
        aside.replace(self._path)

    def close(self) -> None:
        """End the run in the library."""
        self._run.finish()


def _read_steps(path: Path) -> dict[str, int]:
    """Return what `path` has; nothing where a power cut damaged it: values are then there twice."""
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))
        return {str(group): int(step) for group, step in steps.items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return {}


#: Opens the tracker of a run: its folder, its name, the options of the run and of the tracker.
Open = Callable[[Path, str, Mapping[str, Any], Any], Tracker]
_Line = tuple[int, dict[str, float]] | tuple[int, str, str]


class Tracking:
    """Passes the numbers of a run to a tracker, in a thread that the run does not wait for.

    The first values open the tracker. It works in the folder `tracker` of the run and keeps its
    name when the run resumes. If it fails or stalls, `warn` is called once, by the calling thread,
    and it gets nothing more.
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
        """Queue the finite numbers among `values`, with `prefix` before their names."""
        numbers = {
            prefix + name: float(value)
            for name, value in values.items()
            if name not in _LEFT_OUT and isinstance(value, int | float) and math.isfinite(value)
        }
        self._begin()
        self._put((step, numbers))

    def text(self, step: int, name: str, text: str) -> None:
        """Queue a text that the model wrote."""
        self._begin()
        self._put((step, name, text))

    def close(self) -> None:
        """Let the tracker finish, and wait for it at most PATIENCE seconds."""
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
        except BaseException as error:  # a library may raise anything, and even call sys.exit
            text = str(error).strip().splitlines() or [""]
            self._failure = f"{type(error).__name__}: {text[0]}".removesuffix(": ")


def name_of(run: Path, folder: Path, name: str = "") -> str:
    """Return the unique name of `run` in a tracker: the same when it resumes.

    It begins with `name`, or with the name of the run directory, and ends with an id that is stored
    in `folder`.
    """
    own = folder / "id"
    if not own.exists():
        folder.mkdir(exist_ok=True)
        own.write_text(uuid.uuid4().hex[:12] + "\n", encoding="ascii")
    return f"{name or run.name}-{own.read_text(encoding='ascii').strip()}"


def as_code(text: str) -> str:
    """Indent a text, so that a tracker's Markdown keeps its line breaks."""
    return "\n".join("    " + line for line in text.split("\n"))
