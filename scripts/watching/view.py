"""The page's view of a run or a matrix; files may be half-written or gone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpt2.config.dotconfig import lines_of
from gpt2.config.errors import UserError
from gpt2.config.records import Kind
from gpt2.config.text import last_line
from gpt2.config.typed import QUALIFIED
from gpt2.files.json import read_record
from gpt2.files.lock import holder
from gpt2.run_dir.records import RunRecord, Summary
from scripts.study.at_work import is_measuring
from scripts.study.folder import MatrixFolder
from scripts.study.forecast import SHORT_STEPS
from scripts.study.records import CellRecord, MatrixRecord, Probe
from scripts.study.slurm import shown
from scripts.study.state import CellState, states
from scripts.study.views import remaining
from scripts.watching.followed import FollowedRun, Point


@dataclass(frozen=True)
class RunView:
    """The present state of a run, or of a matrix's cell. Numbers are None while unknown.

    status: running, finished, failed, skipped, unfinished (can be resumed) or left (not begun).
    val_loss: of the last evaluation; of a finished run its result.
    memory: bytes.
    left: seconds.
    silent: seconds since the last line of a running one.
    log_interval: steps from one logged step to the next.
    """

    name: str
    status: str
    label: str = ""
    seed: int | None = None
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    val_loss: float | None = None
    tokens_per_second: float | None = None
    memory: int | None = None
    left: float | None = None
    silent: float = 0.0
    log_interval: int | None = None
    reason: str = ""
    facts: tuple[str, ...] = ()
    curves: Mapping[str, list[Point]] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """Return the finished share of its steps."""
        return min(1.0, self.step / self.steps) if self.steps else None


@dataclass(frozen=True)
class MatrixView:
    """The present state of a matrix: its cells in order. left: seconds, if known.

    runner: the process that runs it.
    """

    name: str
    path: Path
    cells: tuple[RunView, ...]
    runner: str
    left: float | None

    def count(self, status: str) -> int:
        """Return how many cells are in a state."""
        return sum(cell.status == status for cell in self.cells)


@dataclass(frozen=True)
class MeasuringView:
    """A matrix before its first run, while short runs measure how fast each row is.

    runner: the process that makes them. done: rows whose short run has ended. step: of the current
    one, of `steps`.
    """

    name: str
    runner: str
    done: Mapping[str, Probe]
    step: int
    steps: int


class WatchedRun:
    """A run directory that is read repeatedly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run = FollowedRun(path)

    @property
    def name(self) -> str:
        """Return the name of the run; that of the run itself where the path is `latest`."""
        return self.path.resolve().name

    def look(self) -> RunView:
        """Return the present state of the run.

        Raises UserError when its folder is gone.
        """
        if not self.path.is_dir():
            raise UserError(f"{self.path} is gone")
        self._run.refresh()
        record = _record(self.path / "run.json", RunRecord)
        summary = _record(self.path / "summary.json", Summary)
        status = record.status or "left"
        if (self.path / "summary.json").exists():
            status = "finished"
        elif status == "preempted" or (status == "running" and not holder(self.path)):
            status = "unfinished"
        lines = _config(self.path / "config")
        max_steps, max_time = _limits(lines)
        limits = record.planned_steps or max_steps, max_time
        view = _view(self._run, self.name, status, limits, summary)
        return replace(view, facts=tuple(_facts(lines, record, summary)))


class WatchedMatrix:
    """The folder of a matrix that is read repeatedly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = MatrixFolder(path)
        self._runs: dict[str, FollowedRun] = {}
        self._results: dict[str, Summary] = {}

    @property
    def name(self) -> str:
        """Return the name of the matrix's folder."""
        return self.path.name

    def measuring(self) -> MeasuringView | None:
        """Return the progress of the short runs before the first run; afterwards None."""
        if not is_measuring(self.path):
            return None
        run = FollowedRun(self.path / "probe")
        run.refresh()
        return MeasuringView(
            self.path.name, holder(self.path), self._folder.probes(), run.step, SHORT_STEPS
        )

    def look(self) -> MatrixView:
        """Return the present state of the matrix.

        Raises UserError when it cannot be read.
        """
        if not self.path.is_dir():
            raise UserError(f"{self.path} is gone")
        record = self._folder.matrix()
        runner, held = holder(self.path), shown.held(self._folder)
        names = [cell.name for cell in record.cells]
        known = states(self._folder, names, alive=bool(runner) or held)
        if held and not runner:
            runner = f"{len(held)} tasks of Slurm"
        cells = tuple(self._cell(cell, known[cell.name]) for cell in record.cells)
        left = self._left(record, known, len(held))
        return MatrixView(record.name, self.path, cells, runner, left)

    def _left(
        self, record: MatrixRecord, known: Mapping[str, CellState], at_once: int
    ) -> float | None:
        with suppress(UserError, OSError):  # these files are only for predictions
            return remaining(self._folder, record, known, at_once)
        return None

    def _cell(self, cell: CellRecord, state: CellState) -> RunView:
        name = cell.name
        run = self._runs.setdefault(name, FollowedRun(self._folder.run_dir(name)))
        run.refresh()
        if state.status != "finished":
            self._results.pop(name, None)
        elif name not in self._results:
            self._results[name] = _record(run.path / "summary.json", Summary)
        reason = f"{state.kind}: {last_line(state.tail) or state.reason}" if state.kind else ""
        limits = cell.steps, cell.max_time or None
        view = _view(run, name, state.status, limits, self._results.get(name, Summary()))
        if state.status != "failed":
            reason = state.reason
        return replace(view, label=cell.label, seed=cell.seed, reason=reason)


def _view(
    run: FollowedRun,
    name: str,
    status: str,
    limits: tuple[int | None, float | None],
    summary: Summary,
) -> RunView:
    """Return a run with these limits (steps, seconds), by its metrics and results so far."""
    steps, max_time = limits
    val_loss = summary.val_loss if status == "finished" else run.val_loss
    finite = val_loss is not None and math.isfinite(val_loss)
    running = status == "running"
    return RunView(
        name=name,
        status=status,
        step=run.step,
        steps=steps,
        loss=run.loss,
        val_loss=val_loss if finite else None,
        tokens_per_second=summary.tokens_per_second or run.tokens_per_second,
        memory=summary.peak_device_bytes or summary.peak_host_bytes or run.memory,
        left=run.seconds_left(steps, max_time) if running else None,
        silent=run.silent if running else 0.0,
        log_interval=run.log_interval,
        curves=run.curves,
    )


def _record(path: Path, kind: type[Kind]) -> Kind:
    """Return a file of a run; an empty record if unreadable, as while it is replaced."""
    try:
        return read_record(path, kind, "")
    except (OSError, UserError):
        return kind()


def _config(path: Path) -> dict[str, str]:
    """Return the values in a run's config by symbol; empty if unreadable."""
    with suppress(OSError, ValueError):
        lines = lines_of(path.read_text(encoding="utf-8"))
        return {line.name: line.value.strip('"') for line in lines if not line.problem}
    return {}


def _limits(config: Mapping[str, str]) -> tuple[int | None, float | None]:
    """Return --max-steps and --max-time of a config; None where they set no limit."""
    with suppress(ValueError):
        steps, seconds = (int(config.get(name) or 0) for name in ("MAX_STEPS", "MAX_TIME"))
        return steps or None, float(seconds) or None
    return None, None


def _member(config: Mapping[str, str], choice: str) -> str:
    """Return the value of a choice, such as OPTIMIZER, as in its flag; "" if it is not set."""
    own = QUALIFIED[choice][1] if choice in QUALIFIED else ""
    words = [
        name.removeprefix(f"{choice}_").lower()
        for name, value in config.items()
        if name.startswith(f"{choice}_") and value == "y" and "PRECISION" not in name
    ]
    return config.get(own) or "".join(words[:1])


def _facts(config: Mapping[str, str], record: RunRecord, summary: Summary) -> list[str]:
    """Return other facts about a single run."""
    pruning = _member(config, "PRUNING_METHOD")
    data = record.data.dataset if record.data else None
    device = f"{record.device} ({record.device_name})" if record.device else None
    method = pruning if pruning != "none" else "dense"
    known = [_member(config, "OPTIMIZER"), method, data, device, record.precision]
    if summary.parameters:
        known.append(f"{summary.parameters / 1e6:.1f} M parameters")
    if summary.test_loss is not None:
        known.append(f"test loss {summary.test_loss:.4f}")
    return [fact for fact in known if fact]
