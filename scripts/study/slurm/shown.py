"""The part of 'make matrix-status' about the jobs of a matrix, as far as known here."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from gpt2.config.errors import UserError
from scripts.study.claims import Claim, Claims
from scripts.study.folder import MatrixFolder
from scripts.study.records import Begin, Refused, Started
from scripts.study.slurm.commands import Jobs
from scripts.study.slurm.submission import FOLDER, active, counted, submission_in

_AGAIN = "'make test-matrix RUNNER=slurm' submits what is left"


def held(folder: MatrixFolder) -> Mapping[str, Claim]:
    """Return the cells that tasks of a cluster have now, with their claims."""
    submission = submission_in(folder.path)
    if submission is None:
        return {}
    return Claims(folder.path, gone=_jobs(submission.jobs).gone).held()


@functools.cache
def _jobs(name: str) -> Jobs:
    """Return the cached queries about the jobs of a name, for callers that look repeatedly."""
    return Jobs(name)


def jobs_of(folder: MatrixFolder, over: bool) -> list[str]:
    """Return lines about the jobs of the last submission; none without a submission."""
    if submission_in(folder.path) is None:
        return []
    try:
        jobs = active(folder.path)
    except UserError as error:
        lines = [f"submitted to Slurm; {error}"]
    else:
        idle = "all cells have finished" if over else f"no job of Slurm is left; {_AGAIN}"
        lines = [f"Slurm: {counted(jobs)}" if jobs else idle]
        if not jobs and not over and not _worked(folder):
            lines.append(
                f"no task has written here: the nodes may not share {folder.path} (choose another "
                f"--out), or failed at once: {folder.path / FOLDER} has what they printed"
            )
    events = _of_the_last(folder)
    refused = {f"{one.host}: {one.reason}": one for one in events if isinstance(one, Refused)}
    return lines + [f"  refused on {reason}" for reason in refused]


def _of_the_last(folder: MatrixFolder) -> list[object]:
    """Return the events since the last submission."""
    events = folder.journal()
    begun = [n for n, event in enumerate(events) if isinstance(event, Begin)]
    return [*events[begun[-1] :]] if begun else []


def _worked(folder: MatrixFolder) -> bool:
    return any(isinstance(event, Started | Refused) for event in _of_the_last(folder))
