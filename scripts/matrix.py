"""The test matrix: axes -> cells -> runs. It goes on wherever it was left, also by kill -9.

Without --plan, --status or --rerun it runs what is left, prints a table and makes the report.
Flags of train.py after -- hold for every cell: scripts/matrix.py -- --data-dir DIR.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and not __package__:  # the repository on the path, not this folder
    _here = Path(__file__).resolve().parent
    sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]

from gpt2.config.cli import Parser, split_at_dashes
from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY, ROOT_TREE
from scripts.study import actions, views
from scripts.study.cells import expand
from scripts.study.description import described, with_threads
from scripts.study.folder import MatrixFolder
from scripts.study.spec import Asked, add_flags, from_config, from_options, study
from scripts.study.spec_yaml import from_yaml


def main(argv: Sequence[str]) -> int:
    """Do what `argv` says with a matrix; return the exit code. Raises UserError."""
    own, more = split_at_dashes(argv)
    asked = parser().parse_args(own)
    found = _asked_for(asked, more)
    folder = MatrixFolder(asked.out or REPOSITORY / "runs" / f"matrix-{found.texts['NAME']}")
    if asked.status:
        print("\n".join(views.status(folder)))
        return Exit.OK
    if asked.rerun is not None:
        return actions.rerun(folder, asked.rerun)
    matrix = expand(with_threads(study(found), folder))
    made = described(matrix, asked.gpus)
    if asked.plan:
        print("\n".join(actions.planned(folder, matrix, made, asked.no_probe)))
        return Exit.OK
    return actions.run(folder, matrix, made)


def parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before the --."""
    found = Parser(prog="matrix.py", description=__doc__, allow_abbrev=False)
    found.add_argument("--config", type=Path, help="a .config or defconfig (default: .config)")
    found.add_argument("--spec", type=Path, help="a matrix kept in a YAML file, instead")
    found.add_argument("--out", type=Path, help="its folder (default: runs/matrix-NAME)")
    found.add_argument("--plan", action="store_true", help="only say what would be run")
    found.add_argument("--no-probe", action="store_true", help="a plan without short runs")
    found.add_argument("--status", action="store_true", help="only say where it stands")
    found.add_argument(
        "--rerun", metavar="CELLS", help="have cells run again: failed, or a pattern of names"
    )
    found.add_argument("--jobs", metavar="N", help="cells at a time, on each GPU or on the CPU")
    found.add_argument("--gpus", default="", metavar="0,1", help="which GPUs (default: all)")
    keeping = "{" + ",".join(Options(ROOT_TREE).members("MATRIX_KEEP")) + "}"
    found.add_argument("--keep", metavar=keeping, help="checkpoints of finished cells that stay")
    return found


def _asked_for(asked: argparse.Namespace, more: Sequence[str]) -> Asked:
    """Return the matrix in the user's words. Raises UserError where there is none."""
    if asked.spec and asked.config:
        raise UserError("--spec names its own config: leave --config out")
    path: Path = asked.config or REPOSITORY / ".config"
    if asked.spec:
        found = from_yaml(asked.spec)
    elif path.exists() or asked.config:
        found = from_config(path)
    elif asked.out and (asked.status or asked.rerun is not None):
        found = from_options(Options(ROOT_TREE))
    else:
        raise UserError(
            "there is no .config: 'make defconfig-gpt2-shakespeare-matrix-cpu' makes that of a "
            "matrix for a CPU, gpt2-shakespeare-matrix for a GPU; or give --spec"
        )
    add_flags(found, more)
    for name, value in (("JOBS", asked.jobs), ("KEEP", asked.keep)):
        if value is not None:
            found.texts[name] = value
            found.where[name] = f"--{name.lower()}"
    return found


if __name__ == "__main__":
    run_entry("matrix.py", lambda: main(sys.argv[1:]))
