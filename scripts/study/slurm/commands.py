"""Run Slurm's programs, parse their output, and report their errors in a line."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from gpt2.config.errors import UserError
from gpt2.config.names import nearest
from scripts.study.claims import Owner

#: Seconds that an answer may take; a busy controller can need some.
_PATIENCE = 60
#: Seconds for which an answer about jobs is reused: sites dislike frequent queries.
_FRESH = 15.0
#: squeue's output fields; wider than any value, so that none is cut.
_FIELDS = "JobArrayID:60,RestartCnt:12,State:24,ArrayTaskID:200,NodeList:100,Reason:60"


class FailedError(Exception):
    """A program of Slurm failed; the message is its last line."""


@dataclass(frozen=True)
class Job:
    """A line of squeue: the job as ARRAY_TASK, its requeues, its state and its node.

    A plain job number would be ambiguous: one task's is also the whole array's. waiting: the tasks
    that a pending line stands for. reason: why it waits.
    """

    number: str
    life: int
    state: str
    node: str
    waiting: int
    reason: str


def need(*programs: str) -> None:
    """Raise UserError where a program of Slurm is missing."""
    for program in programs:
        if shutil.which(program) is None:
            raise UserError(
                f"RUNNER=slurm: {program} is not on the PATH: log in to a node of a cluster that "
                "has it ('module load slurm' at some sites), or run here with RUNNER=local"
            )


def ask(*command: str) -> str:
    """Return the output of a program of Slurm.

    Raises FailedError; UserError where the program is missing.
    """
    need(command[0])
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        raise FailedError(f"{command[0]} gave no answer in {_PATIENCE} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise FailedError(re.sub(r"^\w+: (error: )?", "", lines[-1]))
    return done.stdout


def check_partition(name: str, time_limit: int) -> None:
    """Raise UserError for a partition that does not exist, or only allows shorter jobs.

    Slurm accepts a job whose time limit (in seconds) no partition allows, and never starts it. An
    empty name is the site's default partition.
    """
    try:
        told = ask("sinfo", "--noheader", "--format=%P|%l").split()
    except FailedError as error:
        raise UserError(f"sinfo: {error}: Slurm's controller is needed to submit") from error
    limits = {}
    for line in told:
        found, _, limit = line.partition("|")
        limits[found.rstrip("*")] = limit
        name = name or (found.rstrip("*") if found.endswith("*") else "")
    if name and name not in limits:
        raise UserError(
            f"PARTITION={name}: there is no such partition{nearest(name, list(limits))}; 'sinfo' "
            f"lists {', '.join(limits)}"
        )
    most = clock_seconds(limits.get(name, ""))
    if most is not None and time_limit > most:
        raise UserError(
            f"TIME_LIMIT: partition {name} gives a job at most {limits[name]} "
            "(days-hours:minutes:seconds): give less; tasks are requeued"
        )


def largest_array() -> int | None:
    """Return how many tasks the site allows in an array; None where unknown."""
    try:
        told = re.search(r"^MaxArraySize\s*=\s*([0-9]+)", ask("scontrol", "show", "config"), re.M)
    except FailedError:
        return None
    return int(told[1]) - 1 if told else None


def jobs_named(name: str) -> list[Job]:
    """Return the waiting and running jobs of a name.

    Raises FailedError, UserError.
    """
    told = ask("squeue", "--noheader", f"--name={name}", f"--Format={_FIELDS}")
    return [_job(line) for line in told.splitlines() if line.strip()]


def _job(line: str) -> Job:
    widths = [int(field.partition(":")[2]) for field in _FIELDS.split(",")]
    values = []
    for width in widths:
        values.append(line[:width].strip())
        line = line[width:]
    number, life, state, tasks, node, reason = values
    return Job(number, int(life or 0), state, node, _count(tasks), reason)


def _count(tasks: str) -> int:
    """Return the number of tasks in "0-3,7%2"; a part without numbers counts as one."""
    total = 0
    for part in re.sub(r"[\[\]]|%.*", "", tasks).split(","):
        first, _, last = part.partition("-")
        known = first.isdecimal() and (last or first).isdecimal()
        total += int(last or first) - int(first) + 1 if known else 1
    return total


class Jobs:
    """Answers whether the owner of a claim is gone, from squeue's list of a job's name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked = float("-inf")
        self._known: Mapping[str, Job] | None = None

    def gone(self, owner: Owner) -> bool | None:
        """Return whether the job of an owner has ended or restarted; None without an answer."""
        if time.monotonic() - self._asked > _FRESH:
            try:
                self._known = {job.number: job for job in jobs_named(self._name)}
            except (FailedError, UserError):
                self._known = None
            self._asked = time.monotonic()
        if self._known is None or not owner.job:
            return None
        job = self._known.get(owner.job)
        return job is None or job.life > owner.life or job.state == "PENDING"


def seconds_left(job: str) -> float | None:
    """Return the seconds until a job's time limit; None where it has none, or unknown."""
    try:
        told = ask("squeue", "--noheader", f"--job={job}", "--format=%L").strip()
    except (FailedError, UserError):
        return None
    return clock_seconds(told)


def clock_seconds(text: str) -> float | None:
    """Return the seconds of 1-02:03:04, 2:03:04 or 3:04, as Slurm prints them; else None."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
