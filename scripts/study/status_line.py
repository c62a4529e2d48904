"""The status line of a terminal while a matrix runs: its cells' step, loss, speed, time left."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from gpt2.config.colour import draws
from gpt2.config.text import rough_duration
from gpt2.run_dir.follow import Follower
from scripts.study.folder import MatrixFolder
from scripts.study.records import CellRecord

#: Seconds between two changes of the line.
INTERVAL = 0.5
_ERASE = "\r\x1b[K"


class StatusLine:
    """Shows how far the running cells of `folder` are; nothing where `stream` is not a terminal.

    It is one line, so that output below it (the answer to Ctrl-C) is never erased.
    """

    def __init__(self, folder: MatrixFolder, stream: TextIO) -> None:
        self._folder, self._stream = folder, stream
        self._live = draws(stream)
        self._followers: dict[str, Follower] = {}
        self._drawn = 0.0
        self._shown = False

    def wrap(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """Return `say` for lines above the status line."""

        def above(text: str) -> None:
            self.clear()
            say(text)

        return above

    def show(self, cells: Sequence[CellRecord]) -> None:
        """Show the cells that run now, twice a second at most."""
        if not self._live or time.monotonic() - self._drawn < INTERVAL:
            return
        self._drawn = time.monotonic()
        kept = {cell.name: self._followers.get(cell.name) for cell in cells}
        self._followers = {
            name: known or Follower(self._folder.run_dir(name)) for name, known in kept.items()
        }
        text = self._text(cells)[: shutil.get_terminal_size().columns - 1]
        self._write(_ERASE + text)
        self._shown = True

    def clear(self) -> None:
        """Erase the line."""
        if self._shown:
            self._write(_ERASE)
            self._shown, self._drawn = False, 0.0

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a closed terminal ends no matrix
            self._stream.write(text)
            self._stream.flush()

    def _text(self, cells: Sequence[CellRecord]) -> str:
        said = []
        for cell in cells:
            follower = self._followers[cell.name]
            follower.look()
            said.append(cell_text(cell, follower, brief=len(cells) > 1))
        return "  |  ".join(said) or "waiting"


def cell_text(cell: CellRecord, run: Follower, brief: bool) -> str:
    """Return a running cell as text: step, loss, speed, time left; `brief`: without speed."""
    if not run.step:
        return f"{cell.name}  starting"
    of = f"/{cell.steps:,}" if cell.steps else ""
    parts = [cell.name, f"step {run.step:,}{of}"]
    parts += [f"loss {run.loss:.4f}"] if run.loss is not None else []
    if run.tokens_per_second is not None and not brief:
        parts.append(f"{run.tokens_per_second:,.0f} tokens/s")
    left = run.seconds_left(cell.steps, cell.max_time or None)
    parts += [f"{rough_duration(left)} left"] if left is not None else []
    return "  ".join(parts)
