"""The state of a matrix: each cell by its folder and the journal."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from gpt2.files.json import read_record
from gpt2.run_dir.folder import read_metrics
from scripts.study.folder import MatrixFolder
from scripts.study.records import (
    Again,
    CellResults,
    Event,
    Failed,
    Finished,
    Skipped,
    Started,
    Stopped,
)


@dataclass
class CellState:
    """The state of a cell. status: left, running, unfinished, finished, failed or skipped."""

    status: str = "left"
    kind: str | None = None  # of the last failure
    reason: str = ""
    tail: str = ""
    failures: int = 0  # since the user had it run again
    halvings: int = 0  # of the micro-batch, after out of memory
    shared: bool = False  # ran beside others, at least in part
    seconds: list[float] = field(default_factory=list)  # of the finished attempt


def states(
    folder: MatrixFolder, cells: Iterable[str], alive: bool | Container[str]
) -> dict[str, CellState]:
    """Return the state of every cell.

    `alive`: a runner is at work, so started cells run; or the cells that are being run.
    """
    known = {name: CellState() for name in cells}
    for event in folder.journal():
        if event.cell in known:
            _follow(known[event.cell], event)
    for name, state in known.items():
        if folder.finished(name):
            state.status = "finished"
        elif state.status == "finished":  # its results were removed
            state.status = "left"
        elif state.status == "running" and not (
            alive if isinstance(alive, bool) else name in alive
        ):
            state.status = "unfinished"
    return known


def _follow(state: CellState, event: Event) -> None:
    """Update the state of a cell with one line of the journal."""
    match event:
        case Started():
            state.status = "running"
            state.shared = state.shared or event.shared
        case Finished():
            state.status = "finished"
            if event.seconds is not None:
                state.seconds.append(float(event.seconds))
        case Failed():
            state.status = "unfinished" if event.retry else "failed"
            state.kind, state.reason, state.tail = event.kind, event.reason, event.tail
            state.failures += 1
            if event.halvings is not None:
                state.halvings = event.halvings
        case Stopped():
            state.status = "unfinished"
        case Skipped():
            state.status, state.reason = "skipped", event.reason
        case Again():
            halvings = 0 if event.anew else state.halvings
            state.__init__(halvings=halvings)  # type: ignore[misc]


def progress(folder: MatrixFolder, cell: str, steps: int | None) -> tuple[int, float | None]:
    """Return the last logged step of a cell, and the share of its run."""
    lines = read_metrics(folder.run_dir(cell))
    step = int(lines[-1]["step"]) if lines else 0
    return step, step / steps if steps else None


def results(folder: MatrixFolder, cell: str) -> CellResults:
    """Return the results of a finished cell.

    Raises UserError when they cannot be read.
    """
    return read_record(
        folder.run_dir(cell) / "summary.json",
        CellResults,
        f"'make matrix-rerun CELLS={cell}' makes the cell run again",
    )
