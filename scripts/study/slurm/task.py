"""One task of a matrix's array job: runs cells until nothing is left, or its time is too short."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.files.lock import holder
from scripts.study import machine
from scripts.study.claims import Claims, Owner
from scripts.study.folder import MatrixFolder
from scripts.study.owners import Others, Owners
from scripts.study.records import MatrixRecord, Refused
from scripts.study.runner import Runner
from scripts.study.slurm.commands import Jobs, seconds_left
from scripts.study.slurm.submission import Submission, difference, submission_in
from scripts.study.state import CellState

#: Seconds that the submission may still hold the folder.
_PATIENCE = 60.0


class SlurmTask:
    """This process as a task, from Slurm's environment variables."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.owner = Owner(
            host=os.environ.get("SLURMD_NODENAME")
            or os.environ.get("SLURM_JOB_NODELIST")
            or platform.node(),
            job=_job_here(),
            life=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            pid=os.getpid(),
        )
        limit = seconds_left(self.owner.job) if self.owner.job else None
        left = submission.time_limit if limit is None else limit
        self._last_start = time.monotonic() + left - 2 * submission.signal

    @property
    def part(self) -> str:
        """Return the name of this task's part of the journal."""
        return f"{self.owner.host}-{self.owner.job or self.owner.pid}.{self.owner.life}"

    def owners(self, folder: MatrixFolder, states: dict[str, CellState]) -> Owners:
        """Return the other tasks, which share the cells in `folder`."""
        jobs = Jobs(self.submission.jobs)
        claims = Claims(folder.path, self.owner, jobs.gone)
        return Others(folder, claims, states, self.submission.id)

    def enough(self) -> bool:
        """Return whether a cell that starts now would soon be asked to save."""
        return time.monotonic() > self._last_start


def work(folder: MatrixFolder, train: Sequence[str], here: Path, say: Callable[[str], None]) -> int:
    """Run cells of a submitted matrix; return the exit code, 75 when cells are left.

    Raises UserError where this machine is not fit for it; the journal then says why.
    """
    submission = submission_in(folder.path)
    if submission is None:
        raise UserError(
            f"--task: {platform.node()} does not see a submission in {folder.path}: choose an "
            "--out on a file system that all nodes share"
        )
    task = SlurmTask(submission)
    folder.join(task.part)
    try:
        try:
            _wait_for_the_lock(folder)
            if why := difference(submission):
                raise UserError(f"{task.owner}: {why}")
            record = _for_this_machine(folder.matrix(), submission)
        except UserError as error:
            reason = error.messages[0]
            folder.write(Refused(host=task.owner.host, job=task.owner.job, reason=reason))
            raise
        say(f"task of {folder.path}: {task.owner}, life {task.owner.life}")
        return Runner(folder, record, train, here, say, task).run()
    finally:
        folder.close()


def _job_here() -> str:
    """Return this job as squeue lists it: ARRAY_TASK, or a number; empty outside of Slurm."""
    array, index = (os.environ.get(f"SLURM_ARRAY_{name}", "") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "")


def _wait_for_the_lock(folder: MatrixFolder) -> None:
    """Wait for the submission to end.

    Raises UserError while a runner on one machine is at work.
    """
    end = time.monotonic() + _PATIENCE
    while who := holder(folder.path):
        if time.monotonic() > end:
            raise UserError(f"{folder.path}: in use by {who}, which runs it without Slurm")
        time.sleep(0.2)


def _for_this_machine(record: MatrixRecord, submission: Submission) -> MatrixRecord:
    """Return the matrix with the GPUs that the task has here."""
    given = bool(submission.gpus or os.environ.get("CUDA_VISIBLE_DEVICES"))
    return replace(record, gpus=tuple(machine.chosen_gpus("", on_cpu=not given)))
