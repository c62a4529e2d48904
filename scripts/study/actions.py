"""The actions on a matrix: plan it, run it, report it, run cells again."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gpt2.config.code_hash import code_hash
from gpt2.config.errors import Exit, UserError
from gpt2.config.names import nearest
from gpt2.config.schema import REPOSITORY
from gpt2.config.text import counted
from gpt2.files.lock import holder
from gpt2.run_dir.folder import write_whole
from scripts.study import views
from scripts.study.cells import Matrix, needs_train_to_check
from scripts.study.description import refuse_another
from scripts.study.folder import MatrixFolder
from scripts.study.forecast import probe
from scripts.study.memory import make_plans
from scripts.study.pinned import pinned_notes
from scripts.study.quick import is_quick
from scripts.study.records import Again, Begin, CellRecord, End, MatrixRecord
from scripts.study.runner import Runner
from scripts.study.slurm import shown
from scripts.study.slurm.submission import name_in
from scripts.study.slurm.submit import refuse_a_second
from scripts.study.slurm.task import work
from scripts.study.state import states

TRAIN = (sys.executable, "gpt2/train.py")
RUN_THEM = "'make test-matrix' runs them"
REPORT = REPOSITORY / "scripts" / "report.py"


def say(text: str) -> None:
    """Print a line for the user, with the time."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def planned(
    folder: MatrixFolder, matrix: Matrix, record: MatrixRecord, no_probe: bool
) -> list[str]:
    """Make the missing short runs, and return the plan."""
    notes: list[str] = []
    if not no_probe and holder(folder.path):
        notes = ["the matrix is running: no short runs are made at the same time"]
    elif not no_probe:
        folder.open()
        try:
            failures = probe(folder, record.cells, TRAIN, REPOSITORY, say, _first_gpu(record))
        finally:
            folder.close()
        notes = [f"{kind}: {why}" for kind, why in failures.items()]
    return [*views.plan(folder, matrix, record), *notes]


def _first_gpu(record: MatrixRecord) -> str:
    """Return the GPU for short runs and plans; "" on a CPU, or where unknown."""
    return record.gpus[0] if record.gpus else ""


def run(folder: MatrixFolder, matrix: Matrix, record: MatrixRecord) -> int:
    """Run what is left of a matrix, print its table, make its report; return the exit code."""
    for cell in {c.label: c for c in matrix.cells if needs_train_to_check(c.config)}.values():
        _check_by_train(cell.name, cell.flags)
    _open_alone(folder)
    try:
        for note in (*refuse_another(folder, record), *pinned_notes(matrix.spec)):
            say(f"note: {note}")
        folder.write_matrix(record)
        code = code_hash()
        before = [event.code for event in folder.journal() if isinstance(event, Begin)]
        if before and before[-1] != code:
            say("gpt2/ has changed since the earlier runs: the report does not compare across that")
        make_plans(folder, _unknown(folder, record), TRAIN, REPOSITORY, say, _first_gpu(record))
        folder.write(Begin(code=code, cells=len(record.cells), jobs=record.jobs))
        ended = Runner(folder, record, TRAIN, REPOSITORY, say).run()
        folder.write(End(exit_code=ended))
        text = "\n".join(views.summary(folder, record))
        write_whole(folder.path / "summary.txt", text + "\n")
    finally:
        folder.close()
    print(text)
    if ended not in (Exit.OK, Exit.PREEMPTED):
        where = f" OUT={folder.path}" if is_quick(record.name) else ""  # .config does not name it
        print(f"'make matrix-rerun CELLS=failed{where}' makes the failed cells run again")
    return report(folder.path, ended) if ended != Exit.PREEMPTED else ended


def take_part(out: Path | None) -> int:
    """Run cells of the matrix in `out` as a task of a cluster.

    Raises UserError.
    """
    if out is None:
        raise UserError("--task: it needs --out, the folder of a matrix that was submitted")
    return work(MatrixFolder(out), TRAIN, REPOSITORY, say)


def _open_alone(folder: MatrixFolder) -> None:
    """Open the folder.

    Raises UserError while tasks of a cluster work in it, or wait.
    """
    if shutil.which("squeue") or not name_in(folder.path):
        refuse_a_second(folder.path)
    else:  # this machine does not belong to the cluster
        say(f"note: it was submitted to Slurm, which cannot be asked here: {name_in(folder.path)}")
    folder.open()
    for cell, claim in shown.held(folder).items():  # a task may outlive its job
        folder.close()
        raise UserError(
            f"{folder.path}: {claim.owner} runs {cell}, or did a moment ago: 'make matrix-status' "
            "shows what is at work; a task that was killed counts as gone after a minute of silence"
        )


def _unknown(folder: MatrixFolder, record: MatrixRecord) -> list[CellRecord]:
    """Return the cells of kinds without a finished cell."""
    done = {cell.kind for cell in record.cells if folder.finished(cell.name)}
    return [cell for cell in record.cells if cell.kind not in done]


def report(out: Path, ended: int) -> int:
    """Make the report of a matrix, if its program exists."""
    if not REPORT.exists():
        return ended
    done = subprocess.run([sys.executable, REPORT, "--out", out], cwd=Path.cwd(), check=False)
    return ended or done.returncode


def _check_by_train(name: str, flags: Sequence[str]) -> None:
    """Let train.py check what only it can.

    Raises UserError.
    """
    command = [*TRAIN, *flags, "--check-config"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it was refused"]
        raise UserError(*(f"cell {name}: {line.partition('error: ')[2] or line}" for line in lines))


def rerun(folder: MatrixFolder, pattern: str) -> int:
    """Run cells again: failed ones resume, those with results are set aside and start anew."""
    matrix = folder.matrix()
    names = [cell.name for cell in matrix.cells]
    _open_alone(folder)
    try:
        known = states(folder, names, alive=False)
        failed = [name for name in names if known[name].status == "failed"]
        chosen = failed if pattern == "failed" else fnmatch.filter(names, pattern)
        if not chosen and pattern != "failed":
            raise UserError(
                f"no cell is called {pattern!r}{nearest(pattern, names)}; CELLS=failed takes those "
                "that failed, CELLS='*-seed1' all of a seed"
            )
        for name in chosen:
            anew = folder.finished(name) or known[name].kind in ("diverged", "checkpoint")
            if anew:
                folder.set_aside(name)
            folder.write(Again(cell=name, anew=anew))
    finally:
        folder.close()
    aside = " (earlier results are in set-aside/)" if chosen else ""
    again = "the same 'make compare' runs them" if is_quick(matrix.name) else RUN_THEM
    print(f"{counted(len(chosen), 'cell')} will run again{aside}: {again}")
    return Exit.OK
