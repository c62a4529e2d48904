"""Submit the rest of a matrix as an array job, after every check that can be made before."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gpt2.config.code_hash import code_hash
from gpt2.config.errors import Exit, UserError
from gpt2.config.sizes import show_size
from gpt2.run_dir.folder import now, write_whole
from scripts.study.admission import Admission
from scripts.study.cells import Matrix
from scripts.study.description import refuse_another
from scripts.study.folder import MatrixFolder
from scripts.study.pinned import pinned_notes
from scripts.study.queue import states_at_start
from scripts.study.records import Again, Begin, CellRecord, MatrixRecord
from scripts.study.slurm import submission as submitted
from scripts.study.slurm.commands import (
    FailedError,
    ask,
    check_partition,
    largest_array,
    need,
)
from scripts.study.slurm.script import script_of
from scripts.study.slurm.settings import SlurmSettings
from scripts.study.slurm.submission import Submission
from scripts.study.state import CellState, states

#: Assumed bytes per second of a slow shared file system, for saving a checkpoint.
_SLOW = 100e6


def submit(
    folder: MatrixFolder,
    matrix: Matrix,
    record: MatrixRecord,
    settings: SlurmSettings,
    say: Callable[[str], None],
) -> int:
    """Submit what is left; return the exit code.

    Raises UserError; nothing is submitted then.
    """
    need("sbatch", "squeue", "scontrol", "sinfo")
    check_partition(settings.partition, settings.time_limit)
    if all(cell.config.machine.device == "cpu" for cell in matrix.cells):
        settings = replace(settings, gpus=0)
    _check_times(record, settings)
    largest = largest_array()
    if largest is not None and settings.array > largest:
        raise UserError(
            f"ARRAY={settings.array}: this site takes {largest} tasks in an array "
            f"(MaxArraySize): give ARRAY={largest}; a task takes one cell after another"
        )
    refuse_a_second(folder.path)
    folder.open()
    try:
        refuse_a_second(folder.path)  # while this waited for the folder
        for note in (*refuse_another(folder, record), *pinned_notes(matrix.spec)):
            say(f"note: {note}")
        folder.write_matrix(record)
        left = _left(folder, record)
        if not left:
            say("all cells have finished; 'make report' compares the runs")
            return Exit.OK
        Admission(folder, record, say).check_disk_before(left)
        return _submit(folder, matrix, record, settings, left, say)
    finally:
        folder.close()


def refuse_a_second(out: Path) -> None:
    """Raise UserError while jobs of the matrix in `out` wait or run."""
    if jobs := submitted.active(out):
        raise UserError(
            f"{out} is submitted to Slurm, {submitted.counted(jobs)}: 'make matrix-status' shows "
            f"them, 'scancel --name={submitted.name_in(out)}' ends them"
        )


def _submit(
    folder: MatrixFolder,
    matrix: Matrix,
    record: MatrixRecord,
    settings: SlurmSettings,
    left: list[CellRecord],
    say: Callable[[str], None],
) -> int:
    out = folder.path.resolve()
    before = submitted.submission_in(out)
    name = before.jobs if before else f"matrix-{record.name}-{secrets.token_hex(4)}"
    one = Submission(
        id=f"{now().replace(':', '')}-{platform.node()}-{os.getpid()}",
        jobs=name,
        code=code_hash(),
        versions=submitted.versions(),
        data=submitted.data_hashes(_data_folders(matrix)),
        time_limit=settings.time_limit,
        signal=settings.signal,
        gpus=settings.gpus,
    )
    (out / submitted.FOLDER).mkdir(exist_ok=True)
    script = out / submitted.FOLDER / "matrix.sh"
    write_whole(script, script_of(settings, name, out))
    one.write(out)
    (out / "journal").mkdir(exist_ok=True)  # from here on, every line has an order
    folder.write(Begin(code=one.code, cells=len(record.cells), jobs=record.jobs))
    known = states(folder, (cell.name for cell in record.cells), alive=False)
    for cell in left:
        if known[cell.name].status == "failed":
            folder.write(Again(cell=cell.name))
    tasks = min(settings.array, -(-len(left) // record.jobs))
    try:
        number = ask("sbatch", "--parsable", f"--array=0-{tasks - 1}", str(script))
    except FailedError as error:
        hint = "; MATRIX_SLURM_GPUS=0 asks for no GPU" if "gres" in str(error) else ""
        raise UserError(
            f"sbatch: {error}; nothing was submitted: {script} is the script it refused{hint}"
        ) from error
    job = number.strip().partition(";")[0]
    say(
        f"submitted {len(left)} cells as job {job}, {tasks} tasks: 'make matrix-status' shows how "
        f"they are, 'scancel {job}' ends them"
    )
    if filesystem := _of_one_machine(out):
        say(f"note: {out} is on {filesystem}, which other machines may not see")
    return Exit.OK


def _left(folder: MatrixFolder, record: MatrixRecord) -> list[CellRecord]:
    """Return the cells that may still run."""
    known: dict[str, CellState] = states_at_start(folder, record)
    return [c for c in record.cells if known[c.name].status in ("left", "unfinished")]


def _data_folders(matrix: Matrix) -> list[Path]:
    found = {cell.config.data.data_dir / cell.config.data.dataset: None for cell in matrix.cells}
    return [folder.resolve() for folder in found]


def _check_times(record: MatrixRecord, settings: SlurmSettings) -> None:
    """Raise UserError where a checkpoint may take longer than a task has for it."""
    largest = max(cell.checkpoint_bytes for cell in record.cells)
    seconds = largest / _SLOW + 5.0
    if seconds > settings.signal:
        raise UserError(
            f"MATRIX_SLURM_SIGNAL={settings.signal}: a checkpoint of {show_size(largest)} takes "
            f"about {seconds:.0f} s on a slow shared disk, and is lost when the limit comes "
            f"before its end: give {2 * seconds:.0f} or more, and a TIME_LIMIT three times as long"
        )


def _of_one_machine(out: Path) -> str:
    """Return the type of a file system that only this machine has; else empty."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    above = {str(path) for path in (out, *out.parents)}
    found = [mount for mount in mounts if mount[1] in above]
    kind = max(found, key=lambda mount: len(mount[1]))[2] if found else ""
    return kind if kind in ("tmpfs", "ramfs", "overlay") else ""
