"""List the runs in runs/, newest first: when, optimizer, what is special, steps, loss, status."""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("list_runs.py")

from gpt2.config.cli import Parser
from gpt2.config.dotconfig import lines_of, read_text
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.config.names import value_text
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY, ROOT_TREE
from gpt2.config.typed import QUALIFIED
from gpt2.files.lock import holder
from gpt2.run_dir.folder import read_json, read_metrics
from scripts.kconfig.start import DEFCONFIGS

#: Options that only say where and how long: they do not make a run special.
_PLAIN = ("DATA_DIR", "NUM_THREADS", "NUM_WORKERS", "LOG_INTERVAL", "TRACKER", "NAME")
#: What a reader looks for, in this order; other options follow in that of the menu.
_FIRST = ("OPTIMIZER", "PRUNING_METHOD", "TARGET_SPARSITY", "MODEL", "LEARNING_RATE")
#: Most differences shown; the rest is counted.
_MOST = 4

Values = dict[str, str]


def main(argv: Sequence[str]) -> int:
    """Print a line for each run."""
    found = Parser(prog="list_runs.py", description=__doc__, allow_abbrev=False)
    found.add_argument("--runs", type=Path, default=REPOSITORY / "runs", help=argparse.SUPPRESS)
    folder = found.parse_args(argv).runs
    runs = sorted(
        (path.parent for path in folder.glob("*/config") if not path.parent.is_symlink()),
        key=lambda run: (run / "config").stat().st_mtime,
        reverse=True,
    )
    if not runs:
        print("no run yet: 'make' trains one")
        return 0
    shipped = {
        path.name: _of_defconfig(path)
        for path in sorted(DEFCONFIGS.glob("[!.]*"))
        # Matrix defconfigs are left out: nobody starts a run from one by hand.
        if "-matrix" not in path.name
    }
    rows: list[tuple[str, ...]] = [
        ("when", "run", "optimizer", "steps", "loss", "status", "like, but for")
    ]
    rows += [_row(run, shipped) for run in runs]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _row(run: Path, shipped: dict[str, Values]) -> tuple[str, ...]:
    try:
        values = _values(read_text(run / "config"))
        record = read_json(run, "run.json") if (run / "run.json").exists() else {}
        summary = read_json(run, "summary.json") if (run / "summary.json").exists() else {}
    except UserError as error:
        return ("", run.name, "", "", "", "damaged", error.messages[0])
    lines = read_metrics(run)
    steps = summary.get("steps") or max(lines[-1]["step"] if lines else 0, _saved(run))
    losses = [line["val_loss"] for line in lines if line.get("val_loss") is not None]
    loss = summary.get("val_loss") or (losses[-1] if losses else None)
    return (
        str(record.get("start") or "")[:16].replace("T", " "),
        _shown(run, values.get("NAME", "")),
        _optimizer(values),
        str(steps),
        "" if loss is None else f"{loss:.4f}",
        _status(run, record, bool(summary)),
        _special(values, shipped),
    )


def _optimizer(values: Values) -> str:
    """Return the optimizer as in its flag: adamw, po:soap."""
    word = values.get("OPTIMIZER", "")
    member, symbol = QUALIFIED["OPTIMIZER"]
    return values.get(symbol, word) if word == member else word


def _shown(run: Path, name: str) -> str:
    """Return a run's folder, with its --name if the folder's name lacks it."""
    return run.name if name in run.name else f"{run.name} ({name})"


def _status(run: Path, record: dict[str, object], finished: bool) -> str:
    if finished:
        return "finished"
    if holder(run):
        return "running"
    status = str(record.get("status") or "not begun")
    words = {"running": "killed", "preempted": "stopped (make resume)"}
    return words.get(status, status)


def _saved(run: Path) -> int:
    """Return the step of the newest checkpoint; 0 without one."""
    paths = (run / "checkpoints").glob("step-*")
    names = (re.fullmatch(r"step-([0-9]{8,})", path.name) for path in paths)
    return max((int(name[1]) for name in names if name), default=0)


def _special(values: Values, shipped: dict[str, Values]) -> str:
    """Return the defconfig most like a run, and the differences."""
    apart = {name: _differing(values, other) for name, other in shipped.items()}
    nearest = min(apart, key=lambda name: len(apart[name]))
    names = apart[nearest]
    shown = [
        f"{name.lower().replace('_', '-')} {value_text(name, values[name])}"
        for name in names[:_MOST]
    ]
    shown += [f"{len(names) - _MOST} more"] if len(names) > _MOST else []
    return nearest + (": " + ", ".join(shown) if shown else "")


def _differing(values: Values, other: Values) -> list[str]:
    """Return the differing options: _FIRST, then others, last those that `other` does not use."""
    names = [name for name in values if values[name] != "n" and name not in _PLAIN]
    names = [name for name in names if other.get(name) != values[name]]
    rank = {name: number for number, name in enumerate(_FIRST)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name not in other))


def _of_defconfig(path: Path) -> Values:
    options = Options(ROOT_TREE)
    options.read(path)
    return _values(options.full_text())


def _values(text: str) -> Values:
    """Return the values in a full .config by option; choices as in flags."""
    members, hidden = _members(), _hidden()
    found: Values = {}
    for line in lines_of(text):
        if line.problem or line.name in hidden:
            continue
        choice, word = members.get(line.name, ("", ""))
        if not choice:
            found[line.name] = line.value.strip('"')
        elif line.value == "y":
            found[choice] = word
    return found


@functools.cache
def _members() -> dict[str, tuple[str, str]]:
    """Return the choice and the word of every member of a choice, by its symbol."""
    options = Options(ROOT_TREE)
    return {
        symbol: (choice, word)
        for choice in options.choices
        for word, symbol in options.members(choice).items()
    }


@functools.cache
def _hidden() -> frozenset[str]:
    """Return the symbols that follow from others: no one sets them."""
    symbols = Options(ROOT_TREE).symbols.values()
    return frozenset(
        symbol.name for symbol in symbols if not any(node.prompt for node in symbol.nodes)
    )


if __name__ == "__main__":
    run_entry("list_runs.py", lambda: main(sys.argv[1:]))
