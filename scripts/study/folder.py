"""The folder of a matrix: its lock, its journal, and what it says of each cell.

matrix.json    the matrix: axes, seeds, options of all cells, the cells in their order
journal.jsonl  what happened: one JSON object a line, synced to the disk before it counts
cells/NAME/    the run directory of a cell, as train.py makes it
output/NAME.txt  what its processes printed
probes.json    what short runs took, for predictions
plans.json     the memory that train.py planned, by the kind of cell
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from gpt2.config.errors import Exit, UserError
from gpt2.files.json import mismatch, parse
from gpt2.files.lock import HeldError, lock_folder
from gpt2.run_dir.folder import now, read_json, write_whole

FORMAT = 1
#: What a cell is called: as matrix_cells makes it.
_NAME = re.compile(r"[A-Za-z0-9_=+-][A-Za-z0-9._=+-]*")
_NUMBER = (int, float)
_NONE = type(None)
_EVENT = {
    "event": str,
    "cell": (str, _NONE),
    "time": str,
    "seconds?": _NUMBER,
    "kind?": (str, _NONE),
    "reason?": str,
    "tail?": str,
    "halvings?": int,
}
_CELL = {
    "name": str,
    "label": str,
    "kind": str,
    "point": dict,
    "seed": int,
    "tuning": bool,
    "flags": [str],
    "steps": (int, _NONE),
    "max_time": _NUMBER,
    "eval_interval": int,
    "checkpoint_bytes": int,
}
_MATRIX = {
    "name": str,
    "axes": dict,
    "threads": (int, _NONE),
    "tuning": (dict, _NONE),
    "jobs": int,
    "gpus": list,
    "cells": [_CELL],
}
_PLAN = {"host": int, "needed": int, "device": str, "flags": list}
_PROBE = {
    "step_seconds": _NUMBER,
    "evaluation_seconds": _NUMBER,
    "other_seconds": _NUMBER,
    "peak_host_bytes": int,
    "peak_device_bytes": int,
}


class MatrixFolder:
    """One matrix on the disk. Reading needs no lock; `open` takes it, for the one who writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = path / "cells"
        self._lock: TextIO | None = None
        self._journal: int | None = None

    def open(self) -> None:
        """Make the folder where it is not there, and lock it. Raises UserError."""
        try:
            occupied = self.path.is_dir() and any(self.path.iterdir())
            if occupied and not (self.path / ".lock").exists():
                raise UserError(
                    f"{self.path} exists and is no matrix of ours; choose another --out"
                )
            for folder in (self.path, self.cells, self.path / "output"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
            self._journal = os.open(
                self.path / "journal.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644
            )
            self._end_torn_line(self._journal)
        except HeldError as error:
            raise UserError(
                f"{self.path}: in use by {error.holder}; "
                "'make matrix-status' shows what it does, Ctrl-C there stops it"
            ) from None
        except OSError as error:
            raise UserError(
                f"--out {self.path}: cannot be written: {error.strerror}; choose another folder"
            ) from error

    def _take_lock(self) -> TextIO:
        """Lock the folder. Raises HeldError when that is held for longer than a look takes."""
        advice = "two runners would not see each other: choose an --out on a local disk"
        for _ in range(5):
            with suppress(HeldError):
                return lock_folder(self.path, str(self.path), advice)
            time.sleep(0.05)
        return lock_folder(self.path, str(self.path), advice)

    def close(self) -> None:
        """Free the folder for others."""
        if self._journal is not None:
            os.close(self._journal)
        if self._lock is not None:
            self._lock.close()

    def _end_torn_line(self, journal: int) -> None:
        """End the line that a power cut left half-written, so that it spoils none after it."""
        size = os.fstat(journal).st_size
        if size and os.pread(journal, 1, size - 1) != b"\n":
            os.write(journal, b"\n")

    def write(self, event: str, cell: str | None = None, **values: Any) -> None:
        """Append a line to the journal; when this returns, it is on the disk. Raises UserError."""
        assert self._journal is not None, "the matrix is not open"
        line = {"event": event, "cell": cell, "time": now(), **values}
        try:
            os.write(self._journal, json.dumps(line).encode() + b"\n")
            os.fsync(self._journal)
        except OSError as error:
            raise UserError(
                f"{self.path / 'journal.jsonl'}: cannot be written: {error.strerror}; "
                "make room, and start this again to go on",
                code=Exit.CHECKPOINT,
            ) from error

    def journal(self) -> list[dict[str, Any]]:
        """Return the whole lines of the journal; a torn one says nothing."""
        try:
            data = (self.path / "journal.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        found = []
        for line in data.split(b"\n"):
            with suppress(ValueError):
                value = parse(line.decode())
                if not mismatch(value, _EVENT):
                    found.append(value)
        return found

    def matrix(self) -> dict[str, Any]:
        """Return matrix.json. Raises UserError when there is none, or it is of a newer program."""
        if not (self.path / "matrix.json").exists():
            raise UserError(f"{self.path} holds no matrix: 'make test-matrix' begins one")
        found = read_json(self.path, "matrix.json")
        if found.get("format") != FORMAT:
            raise UserError(
                f"{self.path / 'matrix.json'} has format {found.get('format')}, this program reads "
                f"format {FORMAT}: use the version that made it, or another --out",
                code=Exit.CHECKPOINT,
            )
        self._refuse_misshapen("matrix.json", found, _MATRIX)
        # The names become those of folders: none may lead out of this one.
        for name in (cell["name"] for cell in found["cells"]):
            if not _NAME.fullmatch(name):
                raise UserError(f"{self.path / 'matrix.json'} is damaged: {name!r} is no cell")
        return found

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all."""
        write_whole(self.path / name, json.dumps(value, indent=1) + "\n")

    def probes(self) -> dict[str, dict[str, Any]]:
        """Return what short runs took, by the kind of cell."""
        if not (self.path / "probes.json").exists():
            return {}
        found = read_json(self.path, "probes.json")
        self._refuse_misshapen("probes.json", found, dict.fromkeys(found, _PROBE))
        return found

    def _refuse_misshapen(self, name: str, value: Any, shape: Any) -> None:
        if wrong := mismatch(value, shape):
            raise UserError(f"{self.path / name} is damaged: {wrong}; remove it, or choose --out")

    def plans(self) -> dict[str, dict[str, Any]]:
        """Return what train.py planned, by the kind of cell."""
        if not (self.path / "plans.json").exists():
            return {}
        found = read_json(self.path, "plans.json")
        self._refuse_misshapen("plans.json", found, dict.fromkeys(found, _PLAN))
        return found

    # -- cells ------------------------------------------------------------------------------------

    def run_dir(self, cell: str) -> Path:
        """Return the run directory of a cell."""
        return self.cells / cell

    def output(self, cell: str) -> Path:
        """Return the file of what a cell's processes printed."""
        return self.path / "output" / f"{cell}.txt"

    def finished(self, cell: str) -> bool:
        """Whether a cell has its results. Nothing else says so."""
        return (self.run_dir(cell) / "summary.json").exists()

    def set_aside(self, cell: str) -> None:
        """Move a cell's run out of the way, to be run anew; nothing is deleted."""
        if self.run_dir(cell).exists():
            aside = self.path / "set-aside"
            aside.mkdir(exist_ok=True)
            count = sum(1 for path in aside.glob(f"{cell}.*"))
            self.run_dir(cell).rename(aside / f"{cell}.{count + 1}")

    def thin(self, cell: str, keep: str) -> None:
        """Remove the checkpoints of a finished cell but those to keep: last, best, none or all."""
        parent = self.run_dir(cell) / "checkpoints"
        if keep == "all" or not self.finished(cell):
            return
        names = [p for p in parent.glob("step-*") if re.fullmatch("step-[0-9]+", p.name)]
        steps = {int(path.name.removeprefix("step-")): path for path in names}
        wanted: set[int] = set()
        if steps and keep != "none":
            best = read_json(self.run_dir(cell), "summary.json").get("best") or {}
            wanted = (
                {best["step"]} if keep == "best" and best.get("step") in steps else {max(steps)}
            )
        for step, path in steps.items():
            if step not in wanted:
                # Its manifest goes first: what a kill leaves of it is then no checkpoint.
                (path / "MANIFEST.json").unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)
