"""The metrics of a run while it is being written: each call reads only new lines."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from gpt2.run_dir.folder import whole_lines

#: Logged training steps that the time left is estimated from.
_RECENT = 8


class Follower:
    """Reads the metrics.jsonl of `run` as it grows, and keeps its last numbers.

    A file that is replaced or cut, as a resume does, is read again from its start. A half-written
    last line is read when it is complete. A missing file has no lines.

    step: the last one logged.
    loss, val_loss: of training and of the last evaluation, in nats per token.
    memory: the peak in bytes, of the device if the run has one.
    written: when the last line was written, in seconds since 1970.

    Each is None (step: 0) while unknown.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / "metrics.jsonl"
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._forget()

    def _forget(self) -> None:
        self.step = 0
        self.loss: float | None = None
        self.val_loss: float | None = None
        self.tokens_per_second: float | None = None
        self.memory: int | None = None
        self.elapsed = 0.0
        self.written: float | None = None
        self._steps: deque[tuple[int, float]] = deque(maxlen=_RECENT)

    def look(self) -> tuple[bool, list[dict[str, Any]]]:
        """Return whether earlier lines are invalid now, and the new lines."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                now = status.st_dev, status.st_ino
                anew = now != self._file or status.st_size < self._offset
                if anew:
                    self._file, self._offset = now, 0
                    self._forget()
                file.seek(self._offset)
                data = file.read()
        except OSError:
            anew, self._file, self._offset = self._file is not None, None, 0
            if anew:
                self._forget()
            return anew, []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole_lines(whole)
        for line in lines:
            self._take(line)
        return anew, lines

    def _take(self, line: dict[str, Any]) -> None:
        self.step = line["step"]
        self.elapsed = line.get("elapsed", self.elapsed)
        self.written = line.get("time", self.written)
        if "loss" in line:
            self.loss = _number(line["loss"])
            self.tokens_per_second = _number(line.get("tokens_per_second"))
            sizes = line.get("peak_device_bytes"), line.get("peak_host_bytes")
            self.memory = next((size for size in sizes if isinstance(size, int) and size), None)
            self._steps.append((self.step, self.elapsed))
        elif "val_loss" in line:
            self.val_loss = _number(line["val_loss"])

    @property
    def silent(self) -> float:
        """Return the seconds since the last line was written; 0 before the first."""
        return max(0.0, time.time() - self.written) if self.written is not None else 0.0

    def seconds_left(self, steps: int | None, max_time: float | None) -> float | None:
        """Return the seconds that training still takes with these limits, by the last logged steps.

        None where unknown. Evaluations and checkpoints take extra time.
        """
        limits = []
        if steps and len(self._steps) > 1:
            (first, began), (last, now) = self._steps[0], self._steps[-1]
            if last > first:
                limits.append((steps - last) * (now - began) / (last - first))
        if max_time and self.written is not None:
            limits.append(max_time - self.elapsed)
        return max(0.0, min(limits) - self.silent) if limits else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
