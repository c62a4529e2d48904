"""Where a matrix stands: each cell by its folder and the journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt2.config.errors import UserError
from gpt2.files.json import mismatch
from gpt2.run_dir.folder import read_json, read_metrics
from scripts.study.folder import MatrixFolder

_NUMBER = (int, float)
#: What the matrix needs of the results of a cell.
_RESULTS = {
    "val_loss": (*_NUMBER, type(None)),
    "sparsity_reached": _NUMBER,
    "seconds": _NUMBER,
    "peak_host_bytes": int,
    "peak_device_bytes": int,
}


@dataclass
class CellState:
    """One cell now. status: left, running, unfinished, finished, failed or skipped."""

    status: str = "left"
    kind: str | None = None  # of the last failure
    reason: str = ""
    tail: str = ""
    attempts: int = 0
    halvings: int = 0  # how often the micro-batch was halved for want of memory
    shared: bool = False  # ran beside others, at least for a part
    seconds: list[float] = field(default_factory=list)  # of the finished attempt


def states(folder: MatrixFolder, cells: Iterable[str], alive: bool) -> dict[str, CellState]:
    """Return the state of every cell. `alive`: a runner is at work, so what was started runs."""
    found = {name: CellState() for name in cells}
    for line in folder.journal():
        if line["cell"] in found:
            _follow(found[line["cell"]], line)
    for name, state in found.items():
        if folder.finished(name):
            state.status = "finished"
        elif state.status == "finished":  # its results were taken away
            state.status = "left"
        elif state.status == "running" and not alive:
            state.status = "unfinished"
    return found


def _follow(state: CellState, line: Mapping[str, Any]) -> None:
    """Take one line of the journal in."""
    event = line["event"]
    if event == "started":
        state.status = "running"
        state.attempts += 1
        state.shared = state.shared or bool(line.get("shared"))
    elif event == "finished":
        state.status = "finished"
        if "seconds" in line:
            state.seconds.append(float(line["seconds"]))
    elif event == "failed":
        state.status = "unfinished" if line.get("retry") else "failed"
        state.kind, state.tail = line.get("kind"), line.get("tail", "")
        state.reason = line.get("reason", "")
        state.halvings = line.get("halvings", state.halvings)
    elif event == "stopped":
        state.status = "unfinished"
    elif event == "skipped":
        state.status = "skipped"
        state.reason = line.get("reason", "")
    elif event == "again":
        halvings = 0 if line.get("anew") else state.halvings
        state.__init__(halvings=halvings)  # type: ignore[misc]


def progress(folder: MatrixFolder, cell: str, steps: int | None) -> tuple[int, float | None]:
    """Return the last logged step of a cell, and which share of its run that is."""
    lines = read_metrics(folder.run_dir(cell))
    step = int(lines[-1]["step"]) if lines else 0
    return step, step / steps if steps else None


def results(folder: MatrixFolder, cell: str) -> dict[str, Any]:
    """Return the results of a finished cell."""
    found = read_json(folder.run_dir(cell), "summary.json")
    if wrong := mismatch(found, _RESULTS):
        raise UserError(
            f"{folder.run_dir(cell) / 'summary.json'} is damaged: {wrong}; "
            f"'make matrix-rerun CELLS={cell}' has the cell run again"
        )
    return found
