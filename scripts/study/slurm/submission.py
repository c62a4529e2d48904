"""The record of a submission in the folder of its matrix; every task compares itself with it.

slurm/submission.json  which code, packages and data, by hash or version; the name of its jobs
slurm/matrix.sh        the script that sbatch got
slurm/JOB_TASK.txt     what a task printed
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from gpt2.config.code_hash import code_hash
from gpt2.config.errors import UserError
from gpt2.config.records import Record, to_json
from gpt2.files.json import read_record
from gpt2.run_dir.folder import write_whole
from scripts.environment import requirements
from scripts.study.slurm.commands import FailedError, Job, jobs_named

FOLDER = "slurm"


@dataclass(frozen=True, kw_only=True)
class Submission(Record):
    """slurm/submission.json.

    id: of this submission.
    jobs: the name of its jobs, the same for every submission of the matrix.
    code: hash of gpt2/.
    versions: of Python and packages.
    data: hash of the meta.json of each folder of tokens.
    signal, time_limit: seconds.
    gpus: of a task.
    """

    id: str
    jobs: str
    code: str
    versions: dict[str, str]
    data: dict[str, str]
    time_limit: int
    signal: int
    gpus: int

    def write(self, out: Path) -> None:
        """Write it into the folder of the matrix, atomically."""
        write_whole(out / FOLDER / "submission.json", json.dumps(to_json(self), indent=1) + "\n")


def submission_in(out: Path) -> Submission | None:
    """Return the last submission of a matrix, or None.

    Raises UserError.
    """
    try:
        return read_record(out / FOLDER / "submission.json", Submission, "submit again")
    except FileNotFoundError:
        return None


def name_in(out: Path) -> str:
    """Return the name of a submitted matrix's jobs; empty if it was not submitted."""
    submission = submission_in(out)
    return submission.jobs if submission else ""


def versions() -> dict[str, str]:
    """Return the versions of Python and of a run's packages; "none" for a missing one."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in requirements("runtime"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def data_hashes(folders: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of the meta.json of each folder of tokens, which contains their hashes."""
    return {
        str(folder): hashlib.sha256((folder / "meta.json").read_bytes()).hexdigest()
        for folder in folders
    }


def difference(submission: Submission) -> str:
    """Return how this machine differs from the submitting one; empty if it does not."""
    for name, version in submission.versions.items():
        here = versions().get(name, "none")
        if here != version:
            return (
                f"{name} is {here} here and was {version} at the submission: start both from one "
                f"environment (here {sys.executable})"
            )
    if code_hash() != submission.code:
        return "gpt2/ is not what it was at the submission: submit again from this code"
    for folder, known in submission.data.items():
        try:
            same = data_hashes([Path(folder)])[folder] == known
        except OSError as error:
            return f"{folder}/meta.json cannot be read here: {error.strerror}: copy the data there"
        if not same:
            return f"{folder} holds other data here than at the submission: copy them anew"
    return ""


def active(out: Path) -> list[Job]:
    """Return the waiting and running jobs of a matrix.

    Raises UserError if Slurm cannot tell.
    """
    submission = submission_in(out)
    if submission is None:
        return []
    try:
        return jobs_named(submission.jobs)
    except FailedError as error:
        raise UserError(f"squeue: {error}: whether {out} is at work cannot be told") from error


def counted(jobs: Iterable[Job]) -> str:
    """Return jobs by state, for people: 4 running, 8 pending (Resources)."""
    counts: dict[str, int] = {}
    for job in jobs:
        why = f" ({job.reason})" if job.state == "PENDING" and job.reason else ""
        state = f"{job.state.lower()}{why}"
        counts[state] = counts.get(state, 0) + job.waiting
    order = sorted(counts.items(), reverse=True)  # running before pending
    return ", ".join(f"{count} {state}" for state, count in order)
