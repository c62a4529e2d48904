"""Output of a run for people: lines on the console and in log.txt, and a progress bar."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

from tqdm import tqdm

from gpt2.config import faults
from gpt2.config.colour import draws, painted
from gpt2.run_dir.curve import loss_curve

#: Seconds between two changes of the bar, at least.
INTERVAL = 0.25
#: Columns of the loss curve, at most.
_WIDEST = 100


class Console:
    """Prints lines to the console and to the run's log, and shows the progress of training.

    If the console is gone, such as a closed pipe or terminal, the run continues: it only costs one
    line in the log.
    """

    def __init__(self, log: TextIO, silent: bool = False) -> None:
        self._log = log
        self._silent = silent
        self._log_lost = False
        self._bar: tqdm[Any] | None = None
        self._drawn = 0.0  # when the bar was drawn last
        self._last = ""  # the text of the last step shown

    def say(self, text: str = "", bold: bool = False) -> None:
        """Print lines."""
        if self._silent:
            return
        if self._bar is not None:
            self._show(sys.stderr, self._bar.clear)
        self._print(sys.stdout, painted(text, "bold", sys.stdout) if bold else text)
        self._keep(text)
        if self._bar is not None:
            self._show(sys.stderr, self._bar.refresh)

    def warn(self, text: str) -> None:
        """Print one line of warning to stderr."""
        if self._silent:
            return
        if self._bar is not None:
            self._show(sys.stderr, self._bar.clear)
        self._print(sys.stderr, f"{painted('warning:', 'yellow', sys.stderr)} {text}")
        self._keep(f"warning: {text}")

    def curve(self, metrics: Iterable[Mapping[str, Any]]) -> None:
        """Draw the loss curve of lines of metrics.jsonl, if stdout is a terminal."""
        stream = sys.stdout
        if self._silent or not draws(stream):
            return
        width = min(_WIDEST, shutil.get_terminal_size().columns - 1)
        unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
        for line in loss_curve(metrics, width, braille=unicode):
            self._print(stream, line)

    def begin(self, fraction: float) -> None:
        """Start to show progress; `fraction` of the run is done already."""
        if sys.stderr.isatty() and not self._silent:
            form = "{percentage:3.0f}%|{bar}| {desc}"
            self._bar = tqdm(total=1.0, initial=fraction, bar_format=form, dynamic_ncols=True)
            self._bar.set_description_str("first step ...")

    def progress(self, fraction: float, text: str) -> None:
        """Show that `fraction` of the run is done, with `text`; on a terminal as a bar."""
        if self._silent:
            return
        self._keep(text)
        self._last = text
        if self._bar is None:
            self._print(sys.stdout, text)
        else:
            self._draw(fraction, text)

    @property
    def live(self) -> bool:
        """Return whether there is a bar that was not drawn in the last INTERVAL."""
        return self._bar is not None and time.monotonic() - self._drawn >= INTERVAL

    def move(self, fraction: float, text: str) -> None:
        """Move the bar of a terminal, a few times a second at most; nothing goes to the log."""
        if self.live:
            self._last = text
            self._draw(fraction, text)

    def phase(self, text: str, begins: bool = False) -> None:
        """Show on the bar what is done besides training; `begins`: show it at once."""
        if self._bar is not None and (begins or self.live):
            self._draw(self._bar.n, text)

    def _draw(self, fraction: float, text: str) -> None:
        assert self._bar is not None
        self._drawn = time.monotonic()
        self._bar.set_description_str(text, refresh=False)
        self._bar.n = max(self._bar.n, fraction)  # it never steps back
        self._show(sys.stderr, self._bar.refresh)

    def end(self) -> None:
        """Remove the bar; the line of the last step stays."""
        if self._bar is not None:
            if self._last:  # replaces the progress of a sample
                self._draw(self._bar.n, self._last)
            self._show(sys.stderr, self._bar.close)
            self._bar = None

    def _print(self, stream: TextIO, text: str) -> None:
        self._show(stream, lambda: print(text, file=stream, flush=True))

    def _show(self, stream: TextIO, act: Callable[[], object]) -> None:
        """Run `act`, which writes to `stream`; if it fails, discard further output to it."""
        try:
            act()
        except OSError as error:
            # Replace the stream itself: its unwritten rest would fail again when it is flushed.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            self._keep(
                f"warning: the console takes no more ({error.strerror}); the run continues, "
                "and log.txt has all of its output"
            )

    def _keep(self, text: str) -> None:
        try:
            faults.failpoint("log.write")
            self._log.write(text + "\n")
            self._log.flush()
        except OSError as error:  # a full disk; the run must not end for its log
            if not self._log_lost:
                print(f"warning: log.txt: cannot be written: {error.strerror}", file=sys.stderr)
            self._log_lost = True
