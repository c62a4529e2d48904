"""The test matrix: axes -> cells -> runs. It resumes wherever it was stopped, even by kill -9.

Without --plan, --status or --rerun it runs what is left, prints a table and makes the report.
Flags of train.py after -- apply to every cell: scripts/matrix.py -- --data-dir DIR.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("matrix.py")

from gpt2.config.cli import Parser, split_at_dashes
from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY, ROOT_TREE
from scripts.study import actions
from scripts.study import views as show
from scripts.study.at_work import newest
from scripts.study.cells import expand
from scripts.study.description import describe, read_spec, with_controls, with_threads
from scripts.study.folder import MatrixFolder
from scripts.study.precision import pin_precision
from scripts.study.slurm.settings import settings_of
from scripts.study.slurm.submit import submit
from scripts.study.spec import add_flags, check_spec, from_config

#: Settings of the menu "Test matrix" that also have a flag here.
_SETTINGS = {
    "JOBS": "jobs",
    "KEEP": "keep",
    "RUNNER": "runner",
    "SLURM_PARTITION": "partition",
    "SLURM_TIME_LIMIT": "time-limit",
    "SLURM_ARRAY": "array",
}


def main(argv: Sequence[str]) -> int:
    """Run the action of `argv` on a matrix; return the exit code.

    Raises UserError.
    """
    own, more = split_at_dashes(argv)
    given = parser().parse_args(own)
    if given.status:
        given.out = _to_show(given.out, bool(given.spec or given.config))
    begun = bool(given.out and (given.status or given.rerun is not None))
    if given.task:
        return actions.take_part(given.out)
    raw = read_spec(given.spec, given.config, begun)
    add_flags(raw, more)
    for name, flag in _SETTINGS.items():
        value = getattr(given, flag.replace("-", "_"))
        if value is not None:
            raw.texts[name] = value
            raw.where[name] = f"--{flag}"
    folder = MatrixFolder(given.out or REPOSITORY / "runs" / f"matrix-{raw.texts['NAME']}")
    if given.status:
        print("\n".join(show.measuring(folder.path) or show.status(folder)))
        return Exit.OK
    if given.rerun is not None:
        return actions.rerun(folder, given.rerun)
    slurm = settings_of(raw)
    spec = with_threads(check_spec(raw), folder, slurm.cpus if slurm else None)
    matrix = expand(with_controls(spec, raw, folder))
    if slurm and given.gpus:
        raise UserError("GPUS= has no effect with RUNNER=slurm: MATRIX_SLURM_GPUS sets how many")
    measure = None if slurm else not given.plan
    pin_precision(matrix, folder, actions.TRAIN, REPOSITORY, actions.say, measure)
    record = describe(matrix, given.gpus, here=slurm is None)
    if given.plan:
        print("\n".join(actions.planned(folder, matrix, record, given.no_probe)))
        return Exit.OK
    if slurm:
        return submit(folder, matrix, record, slurm, actions.say)
    return actions.run(folder, matrix, record)


def _to_show(out: Path | None, described: bool) -> Path | None:
    """Return the folder whose status to show: `out`, or that of the matrix described.

    If there is none, or no run of .config's matrix has begun, it is the newest in runs/.
    """
    if out or described:
        return out
    config = REPOSITORY / ".config"
    if config.exists():
        own = REPOSITORY / "runs" / f"matrix-{from_config(config).texts['NAME']}"
        if own.exists():
            return own
    return newest(REPOSITORY / "runs")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the flags before the --."""
    found = Parser(prog="matrix.py", description=__doc__, allow_abbrev=False)
    found.add_argument("--config", type=Path, help="a .config or defconfig (default: .config)")
    found.add_argument(
        "--spec", type=Path, help="a YAML file with the matrix, instead of a .config"
    )
    found.add_argument("--out", type=Path, help="its folder (default: runs/matrix-NAME)")
    found.add_argument("--plan", action="store_true", help="show what would run, and exit")
    found.add_argument("--no-probe", action="store_true", help="plan without short runs")
    found.add_argument("--status", action="store_true", help="show progress and exit")
    found.add_argument(
        "--rerun", metavar="CELLS", help="make cells run again: failed, or a pattern of names"
    )
    found.add_argument("--jobs", metavar="N", help="cells at a time, on each GPU or on the CPU")
    found.add_argument("--gpus", default="", metavar="0,1", help="which GPUs (default: all)")
    found.add_argument("--runner", metavar="{local,slurm}", help="run here, or submit to Slurm")
    found.add_argument("--partition", metavar="NAME", help="Slurm partition (default: the site's)")
    found.add_argument(
        "--time-limit", metavar="4h", help="time limit of a Slurm task, which is then requeued"
    )
    found.add_argument("--array", metavar="N", help="Slurm tasks at once")
    found.add_argument("--task", action="store_true", help=argparse.SUPPRESS)  # in Slurm's script
    keeping = "{" + ",".join(Options(ROOT_TREE).members("MATRIX_KEEP")) + "}"
    found.add_argument(
        "--keep", metavar=keeping, help="which checkpoints of finished cells to keep"
    )
    return found


if __name__ == "__main__":
    run_entry("matrix.py", lambda: main(sys.argv[1:]))
