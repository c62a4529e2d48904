"""Run directories as the report reads them: options, record, results, curves, and problems.

Only config, command, run.json, summary.json, metrics.jsonl and sample.txt are read; logs never. A
file that cannot be read is a problem of its run, and affects nothing else.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from gpt2.config.dotconfig import lines_of, unquoted
from gpt2.config.options import Options
from gpt2.config.records import Kind, salvage
from gpt2.config.text import shortened
from gpt2.config.typed import QUALIFIED
from gpt2.files.json import parse
from gpt2.files.lock import NAME as LOCK
from gpt2.files.lock import holder
from gpt2.run_dir.folder import SAMPLE
from gpt2.run_dir.records import RunRecord, Summary
from scripts.reports.metrics import Point, points_of

#: Numbers without which a run counts as having no results.
NEEDED = ("val_loss", "val_perplexity", "steps", "tokens", "sparsity_asked", "sparsity_reached")


@dataclass(frozen=True)
class Run:
    """A run directory. `options` are by name, a choice's value as in its flag.

    summary: the results, None before there are any.
    status: finished, or another state.
    points: the lines of metrics.jsonl.
    sample: the text it wrote at its end; empty without one.
    problems: sentences about what could not be read.
    """

    path: Path
    options: Mapping[str, str]
    record: RunRecord = field(default_factory=RunRecord)
    summary: Summary | None = None
    status: str = "finished"
    command: str = ""
    points: tuple[Point, ...] = ()
    sample: str = ""
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return self.path.name

    @property
    def seed(self) -> int:
        """Return the seed; -1 where the config has none."""
        text = self.options.get("SEED", "")
        return int(text) if re.fullmatch("[0-9]+", text) else -1

    @property
    def finished(self) -> bool:
        """Return whether it has results."""
        return self.summary is not None

    @property
    def last_step(self) -> int | None:
        """Return the last logged step."""
        return max((point.step for point in self.points), default=None)

    @cached_property
    def losses(self) -> tuple[tuple[int, float], ...]:
        """Return the training loss of each logged step: (step, loss)."""
        return tuple((each.step, each.loss) for each in self.points if each.loss is not None)

    @cached_property
    def evaluations(self) -> tuple[tuple[int, float, float], ...]:
        """Return the evaluations: (step, loss over the whole validation split, sparsity)."""
        return tuple(
            (each.step, each.val_loss, each.sparsity or 0.0)
            for each in self.points
            if each.val_loss is not None
        )

    @cached_property
    def sparsities(self) -> tuple[tuple[int, float], ...]:
        """Return the sparsity of each line that has one: (step, share of the prunable weights)."""
        return tuple(
            (each.step, each.sparsity) for each in self.points if each.sparsity is not None
        )

    @property
    def loss(self) -> float:
        """Return the final validation loss of a finished run, in nats per token."""
        loss = self.measured("val_loss")
        assert loss is not None, "an unfinished run has no loss"
        return loss

    def measured(self, name: str) -> float | None:
        """Return a number of the results; None if this run does not have it."""
        value = getattr(self.summary, name) if self.summary else None
        return None if value is None else float(value)


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory, in any state. An export is not."""
    return (folder / "config").is_file() and not (folder / "MANIFEST.json").exists()


def read_run(folder: Path) -> Run:
    """Read a run directory; its problems are listed in the result."""
    problems: list[str] = []
    options = _options(_text(folder / "config", problems), problems)
    record = _record(folder / "run.json", RunRecord, problems)
    summary, status = _results(folder, record, problems)
    points, broken = points_of(_text(folder / "metrics.jsonl", problems))
    if broken:
        lines = "a line" if broken == 1 else f"{broken} lines"
        problems.append(f"metrics.jsonl: {lines} cut short or damaged, not in the curves")
    command = _text(folder / "command", problems).strip()
    return Run(
        folder,
        options,
        record,
        summary,
        status,
        command,
        points,
        _text(folder / SAMPLE, problems),
        tuple(problems),
    )


def _results(folder: Path, record: RunRecord, problems: list[str]) -> tuple[Summary | None, str]:
    """Return the results and the status of a run; no results where they are incomplete."""
    if not (folder / "summary.json").exists():
        code = record.exit_code
        return None, _state(folder, record) + (f", exit code {code}" if code is not None else "")
    summary = _record(folder / "summary.json", Summary, problems)
    lacking = [name for name in NEEDED if not _is_number(getattr(summary, name))]
    if not summary.as_read:
        return None, "results cannot be read"
    if summary.as_read.get("val_loss", math.nan) is None:
        return None, "ended without a finite loss"
    if lacking:
        problems.append(
            f"summary.json has no {', '.join(lacking)}: it is of another version, and its results "
            "are not used"
        )
        return None, "results of another version"
    return summary, "finished"


def _state(folder: Path, record: RunRecord) -> str:
    """Return the state of an unfinished run; its lock tells whether a process has it open."""
    if running := holder(folder):
        return f"running ({running})"
    if record.status != "running":
        return record.status or "not begun"
    # The lock tells nothing in another user's folder, or in a copy without its lock.
    return "killed" if os.access(folder / LOCK, os.W_OK) else "running, or killed"


def _is_number(value: float | None) -> bool:
    """Return whether a result exists and is finite."""
    return value is not None and math.isfinite(value)


def _text(path: Path, problems: list[str]) -> str:
    """Return the content of a run's file; empty if it does not exist."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
        return ""


def _record(path: Path, kind: type[Kind], problems: list[str]) -> Kind:
    """Return the readable part of a run's JSON file; an empty record without the file."""
    text = _text(path, problems)
    if not text and not path.exists():
        return kind()
    try:
        record, wrong = salvage(kind, parse(text))
    except ValueError as error:
        record, wrong = kind(), [str(error)]
    problems += [f"{path.name} is damaged: {what}" for what in wrong]
    return record


@cache
def _schema() -> Options:
    return Options()


@cache
def _members() -> dict[str, tuple[str, str]]:
    """Return the choice and the word of every member of a choice, by its symbol."""
    options = _schema()
    return {
        symbol: (choice, word)
        for choice in options.choices
        for word, symbol in options.members(choice).items()
    }


def _options(text: str, problems: list[str]) -> dict[str, str]:
    """Return the options of a config by name, choices as words, without derived symbols.

    A config of another version is read as far as possible; unknown names in it are kept.
    """
    found: dict[str, str] = {}
    unknown: list[str] = []
    for name, value in _assignments(text):
        if name in _members():
            if value == "y":
                choice, word = _members()[name]
                found[choice] = word
        elif name in _own_names():
            found[name] = value
        elif name not in _schema().symbols:
            unknown.append(name)
            found[name] = value
    if unknown:
        problems.append(f"config is of another version: {shortened(unknown, 4)} unknown here")
    for choice, (member, own) in QUALIFIED.items():
        if found.get(choice) == member and found.get(own):
            found[choice] = found.pop(own)
    return found


@cache
def _own_names() -> frozenset[str]:
    return frozenset(_schema().names())


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in lines_of(text):
        if not line.problem:
            quoted = unquoted(line.value)
            yield line.name, line.value if quoted is None else quoted
