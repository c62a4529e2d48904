"""The folder of a matrix: its lock, its journal, and the state of each cell.

matrix.json    the matrix: axes, seeds, options of all cells, the cells in their order
journal.jsonl  what happened: one JSON object per line, synced to disk before it counts; tasks
               of a cluster write journal/, one part each (journal.py)
claims/        which task of a cluster has which cell (claims.py)
cells/NAME/    the run directory of a cell, made by train.py
output/NAME.txt  what its processes printed
probes.json    the cost of short runs, for predictions
plans.json     the memory that train.py planned, by the kind of cell
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from gpt2.config.errors import Exit, UserError
from gpt2.config.records import Kind, Record, from_json, to_json
from gpt2.files.json import read_record
from gpt2.files.lock import HeldError, lock_folder
from gpt2.run_dir.folder import write_whole
from scripts.study.journal import Journal
from scripts.study.records import (
    FORMAT,
    CellPlan,
    Event,
    MatrixRecord,
    Probe,
    Versioned,
)

#: The name of a cell, as made by cells.py.
_NAME = re.compile(r"[A-Za-z0-9_=+-][A-Za-z0-9._=+-]*")
_ADVICE = "remove it, or choose another --out"


class MatrixFolder:
    """One matrix on disk. Reading needs no lock; the writer takes it with `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = path / "cells"
        self._lock: TextIO | None = None
        self._journal = Journal(path)

    def open(self) -> None:
        """Create the folder if needed, and lock it.

        Raises UserError.
        """
        try:
            occupied = self.path.is_dir() and any(self.path.iterdir())
            if occupied and not (self.path / ".lock").exists():
                raise UserError(
                    f"{self.path} exists and is not a matrix of this program; choose another --out"
                )
            for folder in (self.path, self.cells, self.path / "output"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
            self._journal.open()
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
        """Lock the folder.

        Raises HeldError when it is locked for longer than a reader needs.
        """
        advice = (
            "two runners would not see each other: choose an --out on a local disk, or have it "
            "mounted with locks (Lustre: flock)"
        )
        for _ in range(5):
            with suppress(HeldError):
                return lock_folder(self.path, str(self.path), advice)
            time.sleep(0.05)
        return lock_folder(self.path, str(self.path), advice)

    def join(self, part: str) -> None:
        """Open the folder beside other tasks, with an own journal `part`.

        Raises UserError.
        """
        try:
            self._journal.open(part)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written here: {error.strerror}; choose an --out that "
                "every node can write to"
            ) from error

    def close(self) -> None:
        """Release the folder."""
        self._journal.close()
        if self._lock is not None:
            self._lock.close()

    def write(self, event: Event) -> None:
        """Append to the journal; when this returns, the line is on disk.

        Raises UserError.
        """
        self._journal.write(event)

    def journal(self) -> list[Event]:
        """Return the journal, without damaged lines."""
        return self._journal.read()

    def matrix(self) -> MatrixRecord:
        """Return matrix.json.

        Raises UserError when it is missing, or of a newer program.
        """
        path = self.path / "matrix.json"
        if not path.exists():
            raise UserError(f"{self.path} holds no matrix: 'make test-matrix' begins one")
        written = read_record(path, Versioned, _ADVICE).format
        if written != FORMAT:
            raise UserError(
                f"{path} has format {written}, this program reads format {FORMAT}: use the version "
                "that made it, or another --out",
                code=Exit.CHECKPOINT,
            )
        matrix = read_record(path, MatrixRecord, _ADVICE)
        # Names become folders: none may lead out of this one.
        for cell in matrix.cells:
            if not _NAME.fullmatch(cell.name):
                raise UserError(f"{path} is damaged: {cell.name!r} is not a cell")
        return matrix

    def write_matrix(self, matrix: MatrixRecord) -> None:
        """Write matrix.json atomically."""
        self._write_json("matrix.json", to_json(matrix))

    def probes(self) -> dict[str, Probe]:
        """Return the costs of short runs, by the kind of cell."""
        return self._by_kind("probes.json", Probe)

    def write_probes(self, probes: Mapping[str, Probe]) -> None:
        """Write probes.json atomically."""
        self._write_json("probes.json", {kind: to_json(probe) for kind, probe in probes.items()})

    def plans(self) -> dict[str, CellPlan]:
        """Return train.py's plans, by the kind of cell."""
        return self._by_kind("plans.json", CellPlan)

    def write_plans(self, plans: Mapping[str, CellPlan]) -> None:
        """Write plans.json atomically."""
        self._write_json("plans.json", {kind: to_json(plan) for kind, plan in plans.items()})

    def _by_kind(self, name: str, entry: type[Kind]) -> dict[str, Kind]:
        """Return the records of a file that has one for each kind of cell.

        Raises UserError.
        """
        path = self.path / name
        try:
            found = read_record(path, Record, _ADVICE).as_read
            return {kind: from_json(entry, value, kind) for kind, value in found.items()}
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{path} cannot be read: {error}; {_ADVICE}") from error

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        write_whole(self.path / name, json.dumps(value, indent=1) + "\n")

    def run_dir(self, cell: str) -> Path:
        """Return the run directory of a cell."""
        return self.cells / cell

    def output(self, cell: str) -> Path:
        """Return the file with a cell's printed output."""
        return self.path / "output" / f"{cell}.txt"

    def finished(self, cell: str) -> bool:
        """Return whether a cell has its results; only these count."""
        return (self.run_dir(cell) / "summary.json").exists()

    def set_aside(self, cell: str) -> None:
        """Move a cell's run aside, so that it can run anew; nothing is deleted."""
        if self.run_dir(cell).exists():
            aside = self.path / "set-aside"
            aside.mkdir(exist_ok=True)
            count = sum(1 for path in aside.glob(f"{cell}.*"))
            self.run_dir(cell).rename(aside / f"{cell}.{count + 1}")
