"""The journal of a matrix: in parts, one for each writer, which readers merge.

journal.jsonl                the part of runners that hold the lock of the folder
journal/HOST-JOB.LIFE.jsonl  the part of one task of a cluster; LIFE counts its requeues

Once there are several parts, every line carries `order`: milliseconds since 1970, and later than
any line its writer had read. So the lines of one cell are in order although clocks differ: who
takes over a cell reads the journal first.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gpt2.config.errors import Exit, UserError
from gpt2.config.records import to_json
from gpt2.run_dir.folder import now
from scripts.study.records import Event, read_event

#: The part of a runner on one machine, and the folder of the others.
MAIN, PARTS = "journal.jsonl", "journal"


class Journal:
    """The journal of the matrix in `folder`. Only writing needs `open`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._order = 0  # of the last line read or written
        self._path = folder / MAIN
        self._handle: int | None = None

    def open(self, part: str | None = None) -> None:
        """Open a part for writing: MAIN, or a task's.

        Raises OSError.
        """
        if part is not None:
            self._path = self._folder / PARTS / f"{part}.jsonl"
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")  # half a line, left by a power cut
        self.read()

    def close(self) -> None:
        """Close the open part."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def write(self, event: Event) -> None:
        """Append a line; when this returns, it is on disk.

        Raises UserError.
        """
        assert self._handle is not None, "the matrix is not open"
        event = replace(event, time=now())
        if (self._folder / PARTS).is_dir():
            self._order = max(int(time.time() * 1000), self._order + 1)
            event = replace(event, order=self._order)
        line = {"event": event.EVENT, **to_json(event)}
        try:
            os.write(self._handle, json.dumps(line).encode() + b"\n")
            os.fsync(self._handle)
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written: {error.strerror}; "
                "make room, then run the same command again",
                code=Exit.CHECKPOINT,
            ) from error

    def read(self) -> list[Event]:
        """Return the events of all parts in order, without damaged lines."""
        events, _ = read_events(self._folder)
        self._order = max([self._order, *(event.order or 0 for event in events)])
        return events


def parts(folder: Path) -> list[Path]:
    """Return the files of the journal in a matrix's folder."""
    main = folder / MAIN
    return [*([main] if main.exists() else []), *sorted((folder / PARTS).glob("*.jsonl"))]


def read_events(folder: Path) -> tuple[list[Event], dict[str, int]]:
    """Return the events of all parts in order, and the number of damaged lines by part."""
    found: list[tuple[int, Event]] = []
    damaged: dict[str, int] = {}
    for path in parts(folder):
        order = 0
        for event in _lines(path):
            if event is None:
                damaged[path.name] = damaged.get(path.name, 0) + 1
                continue
            # Old lines without an order stay where the file has them.
            order = order if event.order is None else max(order, event.order)
            found.append((order, event))
    return [event for _, event in sorted(found, key=lambda one: one[0])], damaged


def _lines(path: Path) -> Iterator[Event | None]:
    """Yield the events of one part, None for a damaged line."""
    for line in path.read_bytes().split(b"\n"):
        if line.strip():
            try:
                yield read_event(line.decode())
            except ValueError:
                yield None
