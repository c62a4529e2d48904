"""Progress of a preparation: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Self

from tqdm import tqdm

_LINE_SECONDS = 10  # between lines, without a terminal


class Bar:
    """Progress of the preparation, its speed, and the time left where the size is known.

    A bar on a terminal; elsewhere a line every _LINE_SECONDS.
    """

    def __init__(self) -> None:
        self._bar: tqdm[int] | None = None
        self._began = self._printed = time.monotonic()
        self._first = 0

    def reached(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes of text are done; the first call sets the start.

        `total` may be somewhat more than the text.
        """
        if self._bar is None:
            self._first = done
            self._bar = tqdm(
                total=total,
                initial=done,
                unit="B",
                unit_scale=True,
                disable=not sys.stderr.isatty(),
                leave=False,
            )
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if self._bar.disable and now - self._printed >= _LINE_SECONDS:
            self._printed = now
            self.say(progress_line(done, total, done - self._first, now - self._began))

    def say(self, line: str) -> None:
        """Print a line for the user, above the bar."""
        tqdm.write(line, file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def progress_line(done: int, total: int | None, since: int, seconds: float) -> str:
    """Return a line of progress: `since` bytes of the `done` took `seconds`."""
    speed = since / seconds if seconds > 0 else 0.0
    line = f"{done / 1e6:,.0f} MB of text"
    if total is not None:
        line += f" of {total / 1e6:,.0f}"
    line += f", {speed / 1e6:.1f} MB/s"
    if total is not None and speed > 0:
        line += f", about {max(0, total - done) / speed:,.0f} s left"
    return line
