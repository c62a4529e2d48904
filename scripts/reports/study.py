"""The folder of a matrix as the report reads it: its spec, failed cells, and cells left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit
from gpt2.config.records import Record, salvage
from gpt2.files.json import read_record
from scripts.reports.runs import Run
from scripts.study.journal import parts, read_events
from scripts.study.records import Failed, Finished, Skipped, Started

SPEC, CELLS = "matrix.json", "cells"


@dataclass(frozen=True)
class Failure:
    """A cell without results: how it ended, its exit code, the reason, and its last lines."""

    cell: str
    kind: str
    exit_code: str
    reason: str
    tail: str


@dataclass(frozen=True)
class MatrixOutcome:
    """A matrix, and the outcome of its cells.

    spec: the content of matrix.json.
    failures, left: cells that failed, and cells still to run.
    tuning_seeds: None where the spec has none.
    tuned: the options of MATRIX_TUNE, as typed.
    shared: cells ran beside others.
    """

    folder: Path
    name: str
    spec: dict[str, Any]
    failures: tuple[Failure, ...] = ()
    left: tuple[str, ...] = ()
    tuning_seeds: tuple[int, ...] | None = None
    tuned: tuple[str, ...] = ()
    shared: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Cell(Record):
    """The report's part of a cell."""

    name: str


@dataclass(frozen=True, kw_only=True)
class _Tuning(Record):
    """The report's part of the tuning."""

    seeds: tuple[int, ...] = ()
    space: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class _Spec(Record):
    """The report's part of a matrix.json of any version; all of it may be missing."""

    name: str = ""
    jobs: int = 1
    tuning: _Tuning | None = None
    cells: tuple[_Cell, ...] = ()


def is_matrix(folder: Path) -> bool:
    """Return whether a folder is a matrix."""
    return (folder / SPEC).is_file()


def newest(parent: Path) -> Path | None:
    """Return the matrix in `parent` that was last at work, or None."""
    found = [path.parent for path in parent.glob(f"*/{SPEC}")]
    return max(found, key=_last_at_work, default=None)


def read_matrix(folder: Path, runs: Sequence[Run]) -> MatrixOutcome:
    """Return a matrix's spec and the outcome of its cells.

    Raises UserError (DATA).
    """
    advice = "--runs reports the runs in it"
    whole = read_record(folder / SPEC, Record, advice, Exit.DATA).as_read
    spec, wrong = salvage(_Spec, whole)
    problems = [f"{SPEC} is damaged: {what}" for what in wrong]
    done = {run.name for run in runs if run.finished}
    failed: dict[str, Failure] = {}
    skipped: set[str] = set()
    shared = spec.jobs > 1
    events, damaged = read_events(folder)
    problems += [
        f"{name}: {count} line(s) cut short or damaged were left out"
        for name, count in damaged.items()
    ]
    for event in events:
        cell = event.cell or ""
        shared = shared or (isinstance(event, Started | Finished) and event.shared)
        skipped.discard(cell)
        failed.pop(cell, None)
        if isinstance(event, Failed) and not event.retry:
            code = str(event.exit_code or "")
            failed[cell] = Failure(cell, event.kind or "", code, event.reason, event.tail)
        elif isinstance(event, Skipped):
            skipped.add(cell)
    settled = done | failed.keys() | skipped
    return MatrixOutcome(
        folder=folder,
        name=spec.name or folder.name,
        spec=dict(whole),
        failures=tuple(failed[cell] for cell in sorted(failed) if cell not in done),
        left=tuple(cell.name for cell in spec.cells if cell.name not in settled),
        tuning_seeds=_tuning_seeds(spec),
        tuned=tuple((spec.tuning and spec.tuning.space) or ()),
        shared=shared,
        problems=tuple(problems),
    )


def _tuning_seeds(spec: _Spec) -> tuple[int, ...] | None:
    if "tuning" not in spec.as_read:
        return None
    return spec.tuning.seeds if spec.tuning else ()


def _last_at_work(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder / SPEC, *parts(folder)))
