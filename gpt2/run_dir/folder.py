"""The run directory: a folder that explains itself.

command        the exact command line
config         the full .config: copy it to .config to repeat the run
run.json       versions, device, seed, data, start, end, status, exit code
metrics.jsonl  one JSON object per logged step
tracker/       files of the tracker, if there is one
log.txt        the console's output
checkpoints/   see checkpoint/store.py
summary.json   the results; a run is finished when this exists
sample.txt     the text that the model wrote after its last step
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.files.atomic import replace_file
from gpt2.files.json import mismatch, parse, read_object, read_record
from gpt2.files.lock import HeldError, lock_folder
from gpt2.files.manifest import MANIFEST
from gpt2.run_dir.records import Summary
from gpt2.run_dir.tracking import Tracking

#: The text that the finished model wrote.
SAMPLE = "sample.txt"
_NUMBER = (int, float)
#: The shapes of a run's files that readers need.
_SHAPES: dict[str, Any] = {
    "run.json": {
        "effective_batch": int,
        "device": str,
        "precision": str,
        "data": {
            "data_hash": str,
            "tokenizer": {"name": str, "vocab_size": int, "characters?": str},
        },
        "init_from?": (dict, type(None)),
        "lowered?": [{"batch": str, "from": int, "to": int}],
        "resumes?": [str],
        "code?": (str, type(None)),
    },
    "summary.json": {"best?": (dict, type(None)), "val_loss?": (*_NUMBER, type(None))},
}
#: The remedy for a damaged file of a run.
ADVICE = "restore it, or start again in another folder"
#: A line of metrics.jsonl; NaN and Inf are null.
_LINE = {"step": int, "elapsed?": _NUMBER, "time?": _NUMBER}


class RunFolder:
    """One run directory, locked against every other process while it is open."""

    def __init__(self, path: Path) -> None:
        """Open `path`, creating it if needed.

        Raises UserError when it cannot be used.
        """
        self.path = path
        try:
            faults.failpoint("run.open")
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            self.log: TextIO = (path / "log.txt").open(
                "a", encoding="utf-8", errors="backslashreplace"
            )
        except OSError as error:
            raise UserError(
                f"--run-dir {path}: cannot be written: {error.strerror}; choose another folder"
            ) from error
        self._metrics: TextIO | None = None
        self.tracking: Tracking | None = None

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Return whether the run has its results."""
        return (self.path / "summary.json").exists()

    @property
    def started(self) -> bool:
        """Return whether the folder already holds a run."""
        return (self.path / "config").exists()

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run atomically.

        Raises UserError.
        """
        try:
            self._check_there()
        except OSError as error:  # the folder now belongs to something else
            raise UserError(
                f"{self.path / name}: not written: {error.strerror}", code=Exit.CHECKPOINT
            ) from error
        write_whole(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run atomically, with NaN and Inf as null."""
        self.write_text(name, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")

    def cut_metrics(self, step: int, evaluated: bool) -> None:
        """Drop the lines of steps after `step`, which will be repeated, and a torn last line.

        The evaluation of `step` itself is dropped, too, unless it is `evaluated` already.
        """
        if self._metrics is not None:  # it would continue to write into the replaced file
            self._metrics.close()
            self._metrics = None
        kept = [
            line
            for line in read_metrics(self.path)
            if line["step"] < step or (line["step"] == step and (evaluated or "loss" in line))
        ]
        self.write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def record(self, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, with NaN and Inf as null."""
        if self._metrics is None:
            self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
        faults.failpoint("metrics.write")
        self._metrics.write(json.dumps(finite(values), allow_nan=False) + "\n")
        self._metrics.flush()

    def sync_metrics(self) -> None:
        """Flush metrics.jsonl to disk.

        Raises OSError, also when the folder is gone.
        """
        self._check_there()
        if self._metrics is not None:
            faults.failpoint("metrics.sync")
            os.fsync(self._metrics.fileno())

    def _check_there(self) -> None:
        """Raise FileNotFoundError when the folder was removed or replaced.

        In a new folder, checkpoints would belong to no run that can resume.
        """
        try:
            there = os.path.samestat((self.path / ".lock").stat(), os.fstat(self._lock.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            there = False
        if not there:
            raise FileNotFoundError(errno.ENOENT, "the run directory is gone", str(self.path))

    def close(self) -> None:
        """Stop the tracking and release the folder. Write errors have been reported before."""
        if self.tracking is not None:
            self.tracking.close()
        for file in (self._metrics, self.log, self._lock):
            if file is not None:
                with suppress(OSError):
                    file.close()


class FollowedFolder(RunFolder):
    """The run directory on the other ranks: only the first rank writes it."""

    def __init__(self, path: Path) -> None:
        """Store the path, without opening the folder."""
        self.path = path
        self.log = io.StringIO()
        self.tracking = None

    def write_text(self, name: str, text: str) -> None:
        """Do nothing."""

    def cut_metrics(self, step: int, evaluated: bool) -> None:
        """Do nothing."""

    def sync_metrics(self) -> None:
        """Do nothing."""

    def record(self, values: dict[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _locked(path: Path) -> TextIO:
    """Lock a run; return the lock file.

    Raises UserError when another process holds it.
    """
    try:
        return lock_folder(
            path,
            f"--run-dir {path}",
            "two runs would not see each other: choose a folder on a local disk",
        )
    except HeldError as error:
        raise UserError(
            f"--run-dir {path}: in use by {error.holder}; wait for it or choose another folder"
        ) from None


def new_folder(parent: Path, name: str) -> Path:
    """Return a path for a new run in `parent`, named by time and `name`, that does not exist."""
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    path = parent / stem
    count = 1
    while path.exists():
        count += 1
        path = parent / f"{stem}-{count}"
    return path


def unfinished(parent: Path) -> list[Path]:
    """Return the runs in `parent` without results, newest first.

    A run without a checkpoint resumes from its start. An export has a config, too, but does not
    count.
    """
    runs = [
        path.parent
        for path in parent.glob("*/config")
        if not path.parent.is_symlink()
        and not any((path.parent / name).exists() for name in ("summary.json", MANIFEST))
    ]
    return sorted(runs, key=lambda path: (path / "config").stat().st_mtime, reverse=True)


def read_json(run: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a run.

    Raises UserError when the folder is not a run, or the file is damaged.
    """
    try:
        return read_object(run / name, _SHAPES.get(name))
    except FileNotFoundError:
        raise UserError(f"{run} is not a run directory: it has no {name}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{run / name} cannot be read: {error}; {ADVICE}") from error


def prune_checkpoints(run: Path, keep: str) -> None:
    """Remove the checkpoints of a finished run but those to keep: last, best, none or all.

    If the best step has no checkpoint, `best` keeps the last one. An unfinished run keeps all.
    Raises UserError when the results cannot be read.
    """
    if keep == "all" or not (run / "summary.json").exists():
        return
    found = (run / "checkpoints").glob("step-*")
    named = [path for path in found if re.fullmatch("step-[0-9]+", path.name)]
    steps = {int(path.name.removeprefix("step-")): path for path in named}
    kept = None
    if steps and keep != "none":
        best = read_record(run / "summary.json", Summary, ADVICE).best
        kept = best.step if keep == "best" and best and best.step in steps else max(steps)
    for step, path in steps.items():
        if step != kept:
            # The manifest first: what a kill leaves is then no checkpoint.
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the valid lines of metrics.jsonl; empty without the file.

    Lines that a kill or a bad disk damaged are left out.
    """
    path = run / "metrics.jsonl"
    return whole_lines(path.read_bytes()) if path.exists() else []


def whole_lines(data: bytes) -> list[dict[str, Any]]:
    """Return the valid lines of a metrics.jsonl, or of a part of it."""
    found: list[dict[str, Any]] = []
    for line in data.split(b"\n"):
        with suppress(ValueError):  # invalid JSON or UTF-8
            value = parse(line.decode())
            if not mismatch(value, _LINE):
                found.append(value)
    return found


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def finite(value: Any) -> Any:
    """Return a JSON value with NaN and Inf, which JSON cannot hold, as null."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees the old one or the new one, also after a crash.

    Raises UserError.
    """
    try:
        faults.failpoint("run.write")
        replace_file(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}", code=Exit.CONFIG) from error
