"""What can be done with a matrix: plan it, run it, have cells run again."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.names import nearest
from gpt2.config.schema import REPOSITORY
from gpt2.config.sources import code_hash
from gpt2.files.lock import holder
from gpt2.run_dir.folder import write_whole
from scripts.study import views
from scripts.study.cells import Matrix, needs_a_look
from scripts.study.description import refuse_another
from scripts.study.folder import MatrixFolder
from scripts.study.forecast import probe
from scripts.study.memory import make_plans
from scripts.study.runner import Runner
from scripts.study.state import states

TRAIN = (sys.executable, "gpt2/train.py")
REPORT = REPOSITORY / "scripts" / "report.py"


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
    return [*views.plan(folder, matrix, made), *notes]


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
        text = "\n".join(views.summary(folder, made))
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
