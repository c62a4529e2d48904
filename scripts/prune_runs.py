"""List, and with --yes remove, what is useless in runs/: dead runs, checkpoints, empty matrices.

A dead run has no checkpoint and no results, and no process uses it: resuming it would start from
step 0. An extra checkpoint is one of a finished run that is neither its newest nor its best. An
empty matrix has not started any run. Results, metrics and logs of a run that trained anything to
keep are never removed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("prune_runs.py")

from gpt2.config.cli import Parser
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.config.schema import REPOSITORY
from gpt2.config.sizes import show_size
from gpt2.config.text import counted
from gpt2.files.json import read_record
from gpt2.files.lock import NAME as LOCK
from gpt2.files.lock import HeldError, holder, lock_folder
from gpt2.files.manifest import MANIFEST
from gpt2.run_dir.records import Summary
from scripts.study.at_work import is_untrained

#: Files of train.py in a run; a folder with anything else is left alone.
_OURS = {
    "command", "config", "run.json", "metrics.jsonl", "tracker", "log.txt", "checkpoints", LOCK,
}  # fmt: skip


@dataclass(frozen=True)
class Useless:
    """A folder that can be removed, its run, and the reason."""

    path: Path
    run: Path
    reason: str

    @property
    def size(self) -> int:
        """Return the bytes of the files in it."""
        return sum(file.lstat().st_size for file in self.path.rglob("*") if not file.is_dir())


def main(argv: Sequence[str]) -> int:
    """List what can be removed; with --yes remove it."""
    parser = Parser(prog="prune_runs.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    found = list(useless(asked.runs))
    if not found:
        print("nothing to remove: no dead run, no extra checkpoint and no empty matrix")
        return 0
    total = sum(each.size for each in found)
    for each in found:
        name = each.path.relative_to(asked.runs)
        print(f"{show_size(each.size):>10}  {name}  ({each.reason})")
    if not asked.yes:
        print(f"{show_size(total)} in {counted(len(found), 'folder')}: YES=1 removes them")
        return 0
    removed = [each for each in found if remove(each)]
    print(f"removed {counted(len(removed), 'folder')}")
    return 0


def useless(runs: Path) -> Iterator[Useless]:
    """Yield the folders in `runs` that can be removed."""
    for config in sorted(runs.glob("*/config")):
        run = config.parent
        if run.is_symlink() or (run / MANIFEST).exists() or holder(run):
            continue  # a link to a run elsewhere, an export, a run under way
        if (run / "summary.json").exists():
            yield from _extra_checkpoints(run)
        elif _is_dead(run):
            yield Useless(run, run, "no checkpoint, no results")
    for matrix in sorted(path.parent for path in runs.glob("*/cells")):
        if is_untrained(matrix) and not holder(matrix):
            yield Useless(matrix, matrix, "a matrix that started no run")


def remove(useless: Useless) -> bool:
    """Remove a folder, unless a process uses its run now.

    Raises UserError.
    """
    try:
        with lock_folder(useless.run, str(useless.run), "nothing was removed"):
            # The manifest first: what a kill leaves is then no checkpoint.
            (useless.path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(useless.path)
    except HeldError as error:
        print(f"kept: {useless.path} is {error}")
        return False
    except OSError as error:
        raise UserError(f"{useless.path} cannot be removed: {error.strerror}") from error
    return True


def _is_dead(run: Path) -> bool:
    """Return whether a run without results has no checkpoint, and only train.py's files."""
    known = {path.name for path in run.iterdir()} <= _OURS
    return known and not any((run / "checkpoints").glob("step-*"))


def _extra_checkpoints(run: Path) -> Iterator[Useless]:
    """Yield the checkpoints of a finished run but the newest and the best."""
    try:
        best = read_record(run / "summary.json", Summary, "").best
    except UserError as error:
        print(f"kept: {run.name}, whose results cannot be read: {error.messages[0]}")
        return
    steps = {
        int(name): path
        for path in (run / "checkpoints").glob("step-*")
        if (name := path.name.removeprefix("step-")).isdecimal() and not path.is_symlink()
    }
    kept = {max(steps, default=-1), best.step if best else -1}
    for step in sorted(steps.keys() - kept):
        yield Useless(steps[step], run, "neither the newest nor the best checkpoint")


if __name__ == "__main__":
    run_entry("prune_runs.py", lambda: main(sys.argv[1:]))
