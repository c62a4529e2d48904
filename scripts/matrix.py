"""The test matrix: axes -> cells -> runs. It goes on wherever it was left, also by kill -9.

Without --plan, --status or --rerun it runs what is left, prints a table and makes the report.
Flags of train.py after -- hold for every cell: scripts/matrix.py -- --data-dir DIR.
"""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(REPOSITORY)

from gpt2.config.cli import Parser, split_at_dashes
from gpt2.config.errors import Exit, UserError, run_entry
from gpt2.config.names import nearest
from gpt2.config.options import ROOT_TREE, Options
from gpt2.config.sources import code_hash
from gpt2.run_dir.folder import write_whole
from scripts.study import machine
from scripts.study import views as show
from scripts.study.cells import Matrix, expand, needs_a_look
from scripts.study.folder import FORMAT, MatrixFolder, holder
from scripts.study.forecast import checkpoint_bytes, dataset, probe, steps
from scripts.study.memory import make_plans
from scripts.study.rates import RULE
from scripts.study.runner import Runner
from scripts.study.spec import Asked, Study, add_flags, from_config, from_options, study, typed
from scripts.study.spec_yaml import from_yaml
from scripts.study.state import states
from scripts.study.tuning import RATE

TRAIN = (sys.executable, "gpt2/train.py")
REPORT = REPOSITORY / "scripts" / "report.py"


def main(argv: Sequence[str]) -> int:
    """Do what `argv` says with a matrix; return the exit code. Raises UserError."""
    own, more = split_at_dashes(argv)
    asked = parser().parse_args(own)
    found = _asked_for(asked, more)
    folder = MatrixFolder(asked.out or REPOSITORY / "runs" / f"matrix-{found.texts['NAME']}")
    if asked.status:
        print("\n".join(show.status(folder)))
        return Exit.OK
    if asked.rerun is not None:
        return rerun(folder, asked.rerun)
    matrix = expand(_with_threads(study(found), folder))
    made = described(matrix, asked.gpus)
    if asked.plan:
        print("\n".join(planned(folder, matrix, made, asked.no_probe)))
        return Exit.OK
    return run(folder, matrix, made)


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


def _with_threads(wanted: Study, folder: MatrixFolder) -> Study:
    """Divide the cores among the cells that run at once, unless their threads are given.

    They are part of a result: a matrix that was begun keeps its number, whatever runs at once now.
    """
    if "NUM_THREADS" in (*wanted.base, *wanted.axes):
        return wanted
    if (folder.path / "matrix.json").exists():
        threads = folder.matrix()["threads"]
    else:
        threads = max(1, machine.cores() // wanted.jobs) if wanted.jobs > 1 else None
    if threads is None:
        return wanted
    return replace(wanted, base={**wanted.base, "NUM_THREADS": str(threads)})


# -- matrix.json ------------------------------------------------------------------------------


def described(matrix: Matrix, gpus: str) -> dict[str, Any]:
    """Return the content of matrix.json. Raises UserError where data are missing."""
    wanted, cells, problems = matrix.study, [], dict[str, None]()
    for cell in matrix.cells:
        config = cell.config
        try:
            tokens, vocabulary = dataset(config)
        except UserError as error:
            problems |= dict.fromkeys(error.messages)
            continue
        cells.append(
            {
                "name": cell.name,
                "label": cell.label,
                "kind": cell.kind,
                "point": {typed(option): value for option, value in cell.point.items()},
                "seed": cell.seed,
                "tuning": cell.tuning,
                "flags": list(cell.flags),
                "batch": [config.train.batch_size, config.train.gradient_accumulation],
                "steps": steps(config, tokens),
                "max_time": config.train.max_time,
                "eval_interval": config.train.eval_interval,
                "checkpoint_bytes": checkpoint_bytes(config, vocabulary),
            }
        )
    if problems:
        raise UserError(*problems, code=Exit.DATA)
    on_cpu = all(cell.config.machine.device == "cpu" for cell in matrix.cells)
    tuning = {
        "axis": RATE,
        "seeds": list(wanted.tuning_seeds),
        "rule": RULE,
    }
    return {
        "format": FORMAT,
        "name": wanted.name,
        "axes": {typed(option): list(values) for option, values in wanted.axes.items()},
        "seeds": list(wanted.seeds),
        "threads": _threads(wanted),
        "base": {typed(option): value for option, value in wanted.base.items()},
        "tuning": tuning if wanted.tuned else None,
        "left_out": [{"cell": label, "reason": why} for label, why in matrix.left_out],
        "shared": [{"cell": one, "same_as": other} for one, other in matrix.shared],
        "jobs": wanted.jobs,
        "gpus": machine.chosen_gpus(gpus, on_cpu),
        "timeout": wanted.timeout,
        "wait": wanted.wait,
        "keep": wanted.keep,
        "cells": cells,
    }


def _threads(wanted: Study) -> int | None:
    """Return the threads of each cell, where all have the same number of their own."""
    given = wanted.base.get("NUM_THREADS")
    return int(given) if given else None


def refuse_another(folder: MatrixFolder, made: dict[str, Any]) -> list[str]:
    """Return what is to be said of what the folder holds; raise UserError if it is another matrix.

    Seeds and values may come and go; a cell that was begun stays what it was.
    """
    if not (folder.path / "matrix.json").exists():
        return []
    earlier = {cell["name"]: cell for cell in folder.matrix()["cells"]}
    problems = []
    for cell in made["cells"]:
        before = earlier.pop(cell["name"], cell)
        if before["flags"] != cell["flags"] and folder.run_dir(cell["name"]).exists():
            changed = [w for w in cell["flags"] if w not in before["flags"]]
            changed += [w for w in before["flags"] if w not in cell["flags"]]
            problems.append(f"{cell['name']} differs in {' '.join(changed)}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{folder.path} holds runs of another matrix: {problems[0]}{more}; "
            "choose another --out (or MATRIX_NAME), or put the options back"
        )
    gone = [name for name in earlier if folder.run_dir(name).exists()]
    return [f"{len(gone)} runs in it are no longer in the matrix; they stay"] if gone else []


# -- what can be done -------------------------------------------------------------------------


def say(text: str) -> None:
    """Tell the user what happens, with the time."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def planned(
    folder: MatrixFolder, matrix: Matrix, made: dict[str, Any], no_probe: bool
) -> list[str]:
    """Make the short runs that are missing, and return the plan."""
    notes: list[str] = []
    if not no_probe and holder(folder.path):
        notes = ["it is running: no short runs are made beside it"]
    elif not no_probe:
        folder.open()
        try:
            failures = probe(folder, made["cells"], TRAIN, REPOSITORY, say)
        finally:
            folder.close()
        notes = [f"{kind}: {why}" for kind, why in failures.items()]
    return [*show.plan(folder, matrix, made), *notes]


def run(folder: MatrixFolder, matrix: Matrix, made: dict[str, Any]) -> int:
    """Run what is left of a matrix, print its table, make its report; return the exit code."""
    for cell in {c.label: c for c in matrix.cells if needs_a_look(c.config)}.values():
        _check_by_train(cell.name, cell.flags)
    folder.open()
    try:
        for note in refuse_another(folder, made):
            say(note)
        folder.write_json("matrix.json", made)
        code = code_hash()
        before = [line.get("code") for line in folder.journal() if line["event"] == "begin"]
        if before and before[-1] != code:
            say("gpt2/ has changed since these runs were made: a report does not compare across it")
        make_plans(folder, _unknown(folder, made), TRAIN, REPOSITORY, say)
        folder.write("begin", code=code, cells=len(made["cells"]), jobs=made["jobs"])
        ended = Runner(folder, made, TRAIN, REPOSITORY, say).run()
        folder.write("end", exit_code=ended)
        text = "\n".join(show.summary(folder, made))
        write_whole(folder.path / "summary.txt", text + "\n")
    finally:
        folder.close()
    print(text)
    if ended not in (Exit.OK, Exit.PREEMPTED):
        print("'make matrix-rerun CELLS=failed' has what failed run again")
    return report(folder.path, ended) if ended != Exit.PREEMPTED else ended


def _unknown(folder: MatrixFolder, made: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells of the kinds that none has finished of."""
    done = {cell["kind"] for cell in made["cells"] if folder.finished(cell["name"])}
    return [cell for cell in made["cells"] if cell["kind"] not in done]


def report(out: Path, ended: int) -> int:
    """Make the report of a matrix, where the program for that is there."""
    if not REPORT.exists():
        return ended
    done = subprocess.run([sys.executable, REPORT, "--out", out], cwd=Path.cwd(), check=False)
    return ended or done.returncode


def _check_by_train(name: str, flags: Sequence[str]) -> None:
    """Let train.py check what only it can. Raises UserError."""
    command = [*TRAIN, *flags, "--check-config"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it was refused"]
        raise UserError(*(f"cell {name}: {line.partition('error: ')[2] or line}" for line in lines))


def rerun(folder: MatrixFolder, pattern: str) -> int:
    """Have cells run again: what failed goes on, what has results is set aside and run anew."""
    made = folder.matrix()
    names = [cell["name"] for cell in made["cells"]]
    folder.open()
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
            folder.write("again", name, anew=anew)
    finally:
        folder.close()
    aside = " (results that were there are in set-aside/)" if chosen else ""
    print(f"{len(chosen)} cells will be run again{aside}: 'make test-matrix' does")
    return Exit.OK


if __name__ == "__main__":
    run_entry("matrix.py", lambda: main(sys.argv[1:]))
