"""The folder of a matrix as the report reads it: what was asked, what failed, what is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.files.json import parse
from scripts.reports.runs import Run

SPEC, JOURNAL, CELLS = "matrix.json", "journal.jsonl", "cells"


@dataclass(frozen=True)
class Failure:
    """A cell that has no results: how it ended, with which exit code, why, and its last words."""

    cell: str
    kind: str
    exit_code: str
    reason: str
    tail: str


@dataclass(frozen=True)
class Study:
    """A matrix. spec: matrix.json as it is; tuning_seeds: None where the spec does not say."""

    folder: Path
    spec: dict[str, Any]
    failures: tuple[Failure, ...] = ()
    left: tuple[str, ...] = ()
    tuning_seeds: tuple[int, ...] | None = None
    shared: bool = False
    problems: tuple[str, ...] = field(default=())


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a matrix."""
    return (folder / SPEC).is_file()


def newest(parent: Path) -> Path | None:
    """Return the matrix in `parent` that was last at work; None where there is none."""
    found = [path.parent for path in parent.glob(f"*/{SPEC}")]
    return max(found, key=_last_at_work, default=None)


def read_study(folder: Path, runs: Sequence[Run]) -> Study:
    """Read what a matrix asked for and what became of its cells. Raises UserError (DATA)."""
    try:
        spec = parse((folder / SPEC).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / SPEC} cannot be read: {error}", code=Exit.DATA) from error
    if not isinstance(spec, dict):
        raise UserError(f"{folder / SPEC} is no matrix: it holds no object", code=Exit.DATA)
    broken: list[str] = []
    done = {run.name for run in runs if run.finished}
    failed: dict[str, Failure] = {}
    skipped: set[str] = set()
    shared = False
    for event in _events(folder / JOURNAL, broken):
        cell = str(event.get("cell", ""))
        shared = shared or bool(event.get("shared"))
        skipped.discard(cell)
        failed.pop(cell, None)
        if event.get("event") == "failed" and not event.get("retry"):
            kind, code, reason = (
                str(event.get(name) or "") for name in ("kind", "exit_code", "reason")
            )
            failed[cell] = Failure(cell, kind, code, reason, _lines(event.get("tail", "")))
        elif event.get("event") == "skipped":
            skipped.add(cell)
    failures = tuple(failed[cell] for cell in sorted(failed) if cell not in done)
    settled = done | failed.keys() | skipped
    left = tuple(name for name in _cells(spec) if name not in settled)
    jobs = spec.get("jobs", 1)
    shared = shared or (isinstance(jobs, int) and jobs > 1)
    return Study(folder, spec, failures, left, _tuning_seeds(spec), shared, tuple(broken))


def _events(path: Path, broken: list[str]) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    damaged = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = parse(line)
        except ValueError:
            damaged += 1
            continue
        if isinstance(event, dict):
            yield event
    if damaged:
        broken.append(f"{path.name}: {damaged} line(s) cut short or damaged were left out")


def _lines(tail: Any) -> str:
    return "\n".join(map(str, tail)) if isinstance(tail, list) else str(tail)


def _cells(spec: dict[str, Any]) -> list[str]:
    """Return the names of the cells that a spec lists, plain or as objects with a name."""
    cells = spec.get("cells", [])
    names = cells if isinstance(cells, list | dict) else []
    return [str(cell.get("name")) if isinstance(cell, dict) else str(cell) for cell in names]


def _tuning_seeds(spec: dict[str, Any]) -> tuple[int, ...] | None:
    if "tuning" not in spec:
        return None
    tuning = spec["tuning"]
    seeds = tuning.get("seeds") if isinstance(tuning, dict) else []
    return tuple(seed for seed in seeds or () if isinstance(seed, int))


def _last_at_work(folder: Path) -> float:
    files = [folder / name for name in (SPEC, JOURNAL)]
    return max(path.stat().st_mtime for path in files if path.exists())
