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

    label: its name without the seed. kind: cells of one kind take about the same time and memory.
    axes: the values of the axes that play a part in it. flags: of train.py, without --run-dir.
    batch: micro-batch and accumulation. steps: None when time alone ends it. max_time: seconds.
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

    With MATRIX_TUNE: space holds the tuned options and their ranges, of which every row has
    `trials`, drawn by `sampler` with `sampler_seed`; axis then names them all.
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
    """A combination that is no cell, and why."""

    cell: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SharedCell(Record):
    """A combination that is equal to another one, whose cell is run for both."""

    cell: str
    same_as: str


@dataclass(frozen=True, kw_only=True)
class MatrixRecord(Record):
    """matrix.json: the axes, what holds for all cells, and the cells in the order they run in.

    timeout: seconds; None is automatic, 0 is no limit. wait: seconds. gpus: empty for the CPU.
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
        """Return the chance that a cell is run: of rates and trials that are tuned one is taken."""
        if self.tuning is None or cell.tuning:
            return 1.0
        return 1.0 / max(1, self.tuning.trials or len(self.axes.get("learning-rate", ())))

    @property
    def slots(self) -> int:
        """How many cells run at once."""
        return self.jobs * max(1, len(self.gpus))


@dataclass(frozen=True, kw_only=True)
class Versioned(Record):
    """The format of a matrix.json, which says whether the rest can be read."""

    format: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan(Record):
    """The memory of a run as `train.py --plan-json` prints it; sizes in bytes.

    host: peak of the host. needed: peak of the pool, the memory that decides whether the run fits.
    pool_most: what the pool can give at most; None if unknown. fixes: flags that make it fit.
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
    """An entry of probes.json: what a short run of one kind of cell took."""

    step_seconds: float
    evaluation_seconds: float
    other_seconds: float
    peak_host_bytes: int
    peak_device_bytes: int
    peak_process_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class RunCosts(Record):
    """What a finished run took, by its summary.json.

    peak_device_bytes: what tensors took on a GPU; peak_process_bytes: what the process did, with
    the allocator's reserve and the context; 0 in older files.
    """

    seconds: float
    peak_host_bytes: int
    peak_device_bytes: int
    peak_process_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class CellResults(RunCosts):
    """What the matrix needs of a cell's summary.json; a loss that was not finite is None."""

    val_loss: float | None
    sparsity_reached: float


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """A line of the journal. cell: None where it is about the whole matrix. time: UTC, ISO 8601.

    order: where the line stands among those of all parts (journal.py); None in a single journal.
    """

    EVENT: ClassVar[str] = ""
    cell: str | None = None
    time: str = ""
    order: int | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True, kw_only=True)
class Begin(Event):
    """A runner has begun. code: SHA-256 of gpt2/."""

    EVENT = "begin"
    code: str | None = None
    cells: int = 0
    jobs: int = 1


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """A cell's process has started. shared: beside others. going_on: it resumes.

    Of a task of a cluster: host; job, as squeue lists it; step, the last that was logged before.
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
    """A user wants a cell run again. anew: from its first step."""

    EVENT = "again"
    anew: bool = False


@dataclass(frozen=True, kw_only=True)
class ChosenRate(Record):
    """The learning rate of the cells that have the values `group` of their axes.

    rate: a learning rate, or a trial as trial_text has it; None where none works. losses: the mean
    of each; None where it is out.
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
    """What tells events apart."""

    event: str


def read_event(line: str) -> Event:
    """Return the event of a line of the journal; a plain Event of a kind that is not known here.

    Raises ValueError when the line is cut short or damaged.
    """
    value = parse(line)
    return from_json(_EVENTS.get(from_json(_Named, value).event, Event), value)
