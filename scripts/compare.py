"""The quick answer: compare optimizers, pruning methods or sparsities within a given time.

Measures how fast each is here, gives all runs the number of steps that fits, runs them like a
matrix, and makes the report. The same command continues or repeats nothing. Flags of train.py
after -- hold for every run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("compare.py")

from gpt2.config.cli import Parser, split_at_dashes
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.config.schema import REPOSITORY
from gpt2.config.sizes import in_seconds
from gpt2.config.text import counted, items, rough_duration
from scripts.kconfig.start import fitting_defconfig
from scripts.study import actions
from scripts.study.cells import expand
from scripts.study.description import describe
from scripts.study.folder import MatrixFolder
from scripts.study.forecast import dataset, probe, steps
from scripts.study.quick import VARIABLES, Quick, fitting_steps, narrow, of_length
from scripts.study.records import MatrixRecord
from scripts.study.spec import RawSpec, add_flags, check_spec, from_config

#: Steps of the cells that are measured; their short runs have fewer.
_MEASURED = 100


def main(argv: Sequence[str]) -> int:
    """Plan, run and report the comparison; return the exit code. Raises UserError."""
    begun = time.monotonic()
    own, more = split_at_dashes(argv)
    given = parser().parse_args(own)
    texts = (given.optimizers, given.methods, given.sparsities)
    axes = {option: items(text) for option, text in zip(VARIABLES, texts, strict=True)}
    asked = Quick(axes, given.seeds, given.time)
    config = given.config or REPOSITORY / ".config"
    raw = from_config(config if given.config or config.exists() else fitting_defconfig())
    add_flags(raw, more)
    if given.jobs is not None:
        raw.texts["JOBS"] = given.jobs
        raw.where["JOBS"] = "--jobs"
    for note in narrow(raw, asked):
        actions.say(f"note: {note}")
    folder = MatrixFolder(given.out or REPOSITORY / "runs" / f"matrix-{raw.texts['NAME']}")
    length, predicted = _length(raw, folder, asked, given.gpus, begun)
    matrix = of_length(raw, length, folder)
    record = describe(matrix, given.gpus)
    rows = len({cell.label for cell in matrix.cells})
    about = f", about {rough_duration(predicted)}" if predicted else ""
    actions.say(
        f"{rows} rows x {counted(asked.seeds, 'seed')} = {len(matrix.cells)} runs of {length:,} "
        f"steps each{about}; 'make watch' shows them"
    )
    return actions.run(folder, matrix, record)


def _length(
    raw: RawSpec, folder: MatrixFolder, asked: Quick, gpus: str, begun: float
) -> tuple[int, float | None]:
    """Return the steps of every run, and what all of them take; as it was, if it was begun."""
    if (folder.path / "matrix.json").exists():
        known: MatrixRecord = folder.matrix()
        if known.cells and known.cells[0].steps:
            return known.cells[0].steps, None
    base = dict(raw.base)
    record = describe(of_length(raw, _MEASURED, folder), gpus)
    folder.open()
    try:
        failures = probe(folder, record.cells, actions.TRAIN, REPOSITORY, actions.say)
    finally:
        folder.close()
    if failures:
        raise UserError(*(f"{kind}: {why}" for kind, why in failures.items()))
    raw.base = base
    return fitting_steps(record, folder.probes(), asked, begun, _longest(raw))


def _longest(raw: RawSpec) -> list[int | None]:
    """Return the steps that each run would have as .config has it."""
    cells = {cell.label: cell for cell in expand(check_spec(raw)).cells}.values()
    return [steps(cell.config, dataset(cell.config)[0]) for cell in cells]


def parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before the --."""
    found = Parser(prog="compare.py", description=__doc__, allow_abbrev=False)
    found.add_argument("--optimizers", default="", metavar="NAMES", help="such as 'adamw muon'")
    found.add_argument("--methods", default="", metavar="NAMES", help="such as 'none magnitude'")
    found.add_argument("--sparsities", default="", metavar="LIST", help="such as '0.5 0.9'")
    found.add_argument(
        "--time", type=_time, default=600.0, metavar="10m", help="for all of it (default: 10m)"
    )
    found.add_argument(
        "--seeds", type=_seeds, default=3, metavar="N", help="runs of each row (default: 3)"
    )
    found.add_argument("--config", type=Path, help="a .config or defconfig (default: .config)")
    found.add_argument("--out", type=Path, help="its folder (default: runs/matrix-compare-...)")
    found.add_argument("--jobs", metavar="N", help="runs at a time, on each GPU or on the CPU")
    found.add_argument("--gpus", default="", metavar="0,1", help="which GPUs (default: all)")
    return found


def _time(text: str) -> float:
    digits = in_seconds(text)
    if not (digits.isascii() and digits.isdigit() and int(digits) > 0):
        raise argparse.ArgumentTypeError(f"{text} is no time such as 90s, 10m or 1h")
    return float(digits)


def _seeds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 2 <= int(text) <= 100):
        raise argparse.ArgumentTypeError(
            f"SEEDS={text}: give 2 to 100 seeds; one seed cannot show a difference"
        )
    return int(text)


if __name__ == "__main__":
    run_entry("compare.py", lambda: main(sys.argv[1:]))
