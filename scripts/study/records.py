"""Records of a matrix's files: matrix.json, the lines of its journal, plans.json, probes.json.

Fields that every version of a file has are required; the others have defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gpt2.config.records import OMIT_NONE, Record, from_json, stored_as
from gpt2.files.json import parse

#: The format of matrix.json.
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class CellRecord(Record):
    """A cell of matrix.json: one run.

    label: its name without the seed.
    kind: cells of one kind take about the same time and memory.
    axes: the values of the axes that apply to it.
    flags: of train.py, without --run-dir.
    batch: micro-batch and accumulation.
    steps: None when only time ends it.
    max_time: seconds.
    """

    name: str
    label: str
    kind: str
    axes: dict[str, str] = field(metadata=stored_as("point"))
    seed: int
    tuning: bool
    flags: tuple[str, ...]
    batch: tuple[int, int]
    steps: int | None
    max_time: float
    eval_interval: int
    checkpoint_bytes: int


@dataclass(frozen=True, kw_only=True)
class TuningRecord(Record):
    """How a learning rate is chosen: its axis, the seeds for it, and the rule in words.

    With MATRIX_TUNE: space holds the tuned options and their ranges; every row has `trials` of
    them, drawn by `sampler` with `sampler_seed`; axis then names them all.
    """

    axis: str
    seeds: tuple[int, ...]
    rule: str
    space: dict[str, str] | None = field(default=None, metadata=OMIT_NONE)
    trials: int | None = field(default=None, metadata=OMIT_NONE)
    sampler: str | None = field(default=None, metadata=OMIT_NONE)
    sampler_seed: int | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True, kw_only=True)
class LeftOut(Record):
    """A combination that is not a cell, and why."""

    cell: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SharedCell(Record):
    """A combination that equals another one, whose cell is run for both."""

    cell: str
    same_as: str


@dataclass(frozen=True, kw_only=True)
class MatrixRecord(Record):
    """matrix.json: the axes, the options of all cells, and the cells in running order.

    timeout: seconds; None is automatic, 0 is no limit.
    wait: seconds.
    gpus: empty for the CPU.
    controls: whether the controls of pruning were added; version 1 had none to add.
    """

    format: int
    name: str
    axes: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    threads: int | None
    base: dict[str, str]
    tuning: TuningRecord | None
    left_out: tuple[LeftOut, ...]
    shared: tuple[SharedCell, ...]
    jobs: int
    gpus: tuple[str, ...]
    timeout: int | None
    wait: int
    keep: str
    cells: tuple[CellRecord, ...]
    controls: bool = False

    def chance(self, cell: CellRecord) -> float:
        """Return the chance that a cell is run: only one of the tuned rates or trials is used."""
        if self.tuning is None or cell.tuning:
            return 1.0
        return 1.0 / max(1, self.tuning.trials or len(self.axes.get("learning-rate", ())))

    @property
    def slots(self) -> int:
        """Return how many cells run at once."""
        return self.jobs * max(1, len(self.gpus))


@dataclass(frozen=True, kw_only=True)
class Versioned(Record):
    """The format of a matrix.json, which tells whether the rest can be read."""

    format: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan(Record):
    """The memory of a run as `train.py --plan-json` prints it; sizes in bytes.

    host: peak of the host.
    needed: peak of the pool, the memory that decides whether the run fits.
    pool_most: what the pool can give at most; None if unknown.
    fixes: flags that make it fit.
    """

    host: int
    needed: int
    device: str
    pool: str
    pool_most: int | None
    fixes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CellPlan(MemoryPlan):
    """An entry of plans.json: the plan of one kind of cell, and the flags it was made with."""

    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Probe(Record):
    """An entry of probes.json: the costs of a short run of one kind of cell."""

    step_seconds: float
    evaluation_seconds: float
    other_seconds: float
    peak_host_bytes: int
    peak_device_bytes: int
    peak_process_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class RunCosts(Record):
    """The costs of a finished run, by its summary.json.

    peak_device_bytes: tensors on a GPU. peak_process_bytes: the whole process there, with the
    allocator's reserve and the context; 0 in older files.
    """

    seconds: float
    peak_host_bytes: int
    peak_device_bytes: int
    peak_process_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class CellResults(RunCosts):
    """The matrix's part of a cell's summary.json; a loss of NaN or Inf is None."""

    val_loss: float | None
    sparsity_reached: float


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """A line of the journal. cell: None for the whole matrix. time: UTC, ISO 8601.

    order: the line's place among those of all parts (journal.py); None in a single journal.
    """

    EVENT: ClassVar[str] = ""
    cell: str | None = None
    time: str = ""
    order: int | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True, kw_only=True)
class Begin(Event):
    """A runner has started. code: SHA-256 of gpt2/."""

    EVENT = "begin"
    code: str | None = None
    cells: int = 0
    jobs: int = 1


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """A cell's process has started. shared: beside others. going_on: it resumes.

    For a task of a cluster: host; job, as squeue lists it; step, the last logged before.
    """

    EVENT = "started"
    pid: int | None = None
    host: str | None = field(default=None, metadata=OMIT_NONE)
    job: str | None = field(default=None, metadata=OMIT_NONE)
    step: int | None = field(default=None, metadata=OMIT_NONE)
    gpu: str | None = None
    shared: bool = False
    going_on: bool = False
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """A cell has its results. seconds: of its last process; None where a killed runner began it."""

    EVENT = "finished"
    seconds: float | None = field(default=None, metadata=OMIT_NONE)
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Stopped(Event):
    """A cell was stopped, and can be resumed."""

    EVENT = "stopped"
    reason: str | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """A cell has failed. tail: its last lines. halvings: of its micro-batch, from now on."""

    EVENT = "failed"
    kind: str | None = None
    exit_code: int | None = None
    reason: str = ""
    tail: str = ""
    retry: bool = False
    halvings: int | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped(Event):
    """A cell is not run, since its learning rate was not chosen."""

    EVENT = "skipped"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Again(Event):
    """The user wants a cell run again. anew: from its first step."""

    EVENT = "again"
    anew: bool = False


@dataclass(frozen=True, kw_only=True)
class ChosenRate(Record):
    """The learning rate of the cells with the values `group` of their axes.

    rate: a learning rate, or a trial's trial_text; None where none works. losses: the mean of each;
    None where it is out.
    """

    group: dict[str, str] = field(metadata=stored_as("for"))
    rate: str | None
    losses: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Chosen(Event):
    """Learning rates were chosen."""

    EVENT = "chosen"
    rates: tuple[ChosenRate, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refused(Event):
    """A task of a cluster took no cell, since its machine is not fit for this matrix."""

    EVENT = "refused"
    host: str = ""
    job: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class End(Event):
    """A runner has ended."""

    EVENT = "end"
    exit_code: int | None = None


_EVENTS: dict[str, type[Event]] = {
    kind.EVENT: kind
    for kind in (Begin, Started, Finished, Stopped, Failed, Skipped, Again, Chosen, Refused, End)
}


@dataclass(frozen=True, kw_only=True)
class _Named(Record):
    """The kind of an event."""

    event: str


def read_event(line: str) -> Event:
    """Return the event of a line of the journal; a plain Event if its kind is unknown.

    Raises ValueError when the line is damaged.
    """
    value = parse(line)
    return from_json(_EVENTS.get(from_json(_Named, value).event, Event), value)
