"""The quick answer: compare optimizers, pruning methods or sparsities within a given time.

It measures how fast each is on this machine, gives all runs the number of steps that fits, runs
them like a matrix, and makes the report. The same command resumes a comparison that was stopped.
Flags of train.py after -- apply to every run.
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
from scripts.study.at_work import discard
from scripts.study.cells import expand
from scripts.study.description import describe
from scripts.study.folder import MatrixFolder
from scripts.study.forecast import SHORT_SECONDS, SHORT_STEPS, dataset, probe, steps
from scripts.study.quick import (
    VARIABLES,
    Quick,
    end_of,
    fitting_steps,
    narrow,
    of_length,
    refuse_at_once,
    refuse_when_known,
    too_slow_to_measure,
)
from scripts.study.records import CellRecord, MatrixRecord
from scripts.study.spec import RawSpec, add_flags, check_spec, from_config
from scripts.study.state import states
from scripts.study.views import remaining

#: Steps of the measured cells; their short runs have fewer.
_MEASURED = 100


def main(argv: Sequence[str]) -> int:
    """Plan, run and report the comparison; return the exit code.

    Raises UserError.
    """
    begun = time.monotonic()
    own, more = split_at_dashes(argv)
    given = parser().parse_args(own)
    texts = (given.optimizers, given.methods, given.sparsities)
    axes = {option: items(text) for option, text in zip(VARIABLES, texts, strict=True)}
    asked = Quick(axes, given.seeds, given.time)
    config = given.config or REPOSITORY / ".config"
    if not given.config and not config.exists():
        config = fitting_defconfig(given.quiet)
    raw = from_config(config)
    add_flags(raw, more)
    if given.jobs is not None:
        raw.texts["JOBS"] = given.jobs
        raw.where["JOBS"] = "--jobs"
    for note in narrow(raw, asked):
        actions.say(f"note: {note}")
    folder = MatrixFolder(given.out or REPOSITORY / "runs" / f"matrix-{raw.texts['NAME']}")
    ours = not folder.path.exists()
    try:
        length = _length(raw, folder, asked, given.gpus, begun)
        matrix = of_length(raw, length, folder)
        record = describe(matrix, given.gpus)
        actions.say(_what_is_run(folder, record, asked.seeds, length))
        return actions.run(folder, matrix, record)
    finally:
        if ours:  # refused or stopped before anything was trained
            discard(folder.path)


def _what_is_run(folder: MatrixFolder, record: MatrixRecord, seeds: int, length: int) -> str:
    """Return the number of runs, their steps, and how long the rest takes."""
    known = states(folder, (cell.name for cell in record.cells), alive=False)
    left = sum(state.status != "finished" for state in known.values())
    seconds = remaining(folder, record, known)
    about = ""
    if seconds:
        starts = [probe.other_seconds for probe in folder.probes().values()]
        start = f" ({rough_duration(max(starts))} to start and end)" if starts else ""
        one = rough_duration(seconds * record.slots / left)
        about = f", about {one} a run{start}, {rough_duration(seconds)} in all"
    if left < len(record.cells):
        about = f"; {left} are left{about}"
    rows = len({cell.label for cell in record.cells})
    return (
        f"{rows} rows x {counted(seeds, 'seed')} = {len(record.cells)} runs of {length:,} "
        f"steps each{about}; 'make watch' shows them"
    )


def _length(raw: RawSpec, folder: MatrixFolder, asked: Quick, gpus: str, begun: float) -> int:
    """Return the steps of every run: as before, if it was begun; else as many as fit."""
    if (folder.path / "matrix.json").exists():
        known: MatrixRecord = folder.matrix()
        if known.cells and known.cells[0].steps:
            return known.cells[0].steps
    base = dict(raw.base)
    record = describe(of_length(raw, _MEASURED, folder), gpus)
    refuse_at_once(record, asked)
    kinds = {cell.kind: cell for cell in record.cells}
    actions.say(
        f"measuring how long a step of each row takes, in short runs of {SHORT_STEPS} steps (each "
        f"trains for {rough_duration(SHORT_SECONDS)} at most, and evaluates): {', '.join(kinds)}"
    )
    folder.open()
    try:
        for cell in kinds.values():
            _measure(folder, record, cell, asked, begun)
            refuse_when_known(record, folder.probes(), asked, begun)
    except KeyboardInterrupt:
        actions.say("stopped while measuring; nothing was trained")
        raise
    finally:
        folder.close()
    raw.base = base
    return fitting_steps(record, folder.probes(), asked, begun, _longest(raw))[0]


def _measure(
    folder: MatrixFolder, record: MatrixRecord, cell: CellRecord, asked: Quick, begun: float
) -> None:
    """Make the short run of a kind of cell, unless there is one.

    Raises UserError if it fails, or does not end within the time.
    """
    start, end = time.monotonic(), end_of(asked, begun)
    gpu = record.gpus[0] if record.gpus else ""
    failures = probe(folder, [cell], actions.TRAIN, REPOSITORY, actions.say, gpu, end)
    if failures and time.monotonic() >= end:
        raise too_slow_to_measure(record, cell.kind, asked, time.monotonic() - start)
    if failures:
        raise UserError(*(f"{kind}: {why}" for kind, why in failures.items()))
    found = folder.probes()[cell.kind]
    actions.say(
        f"{cell.kind}: {found.step_seconds:.2g} s a step, {rough_duration(found.other_seconds)} "
        f"to start and end, {found.evaluation_seconds:.2g} s an evaluation"
    )


def _longest(raw: RawSpec) -> list[int | None]:
    """Return the steps of each run by .config alone."""
    cells = {cell.label: cell for cell in expand(check_spec(raw)).cells}.values()
    return [steps(cell.config, dataset(cell.config)[0]) for cell in cells]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the flags before the --."""
    found = Parser(prog="compare.py", description=__doc__, allow_abbrev=False)
    found.add_argument(
        "--optimizers", default="", metavar="NAMES", help="compare them: 'adamw muon'"
    )
    found.add_argument("--methods", default="", metavar="NAMES", help="compare them: 'none state'")
    found.add_argument("--sparsities", default="", metavar="LIST", help="compare them: '0.5 0.9'")
    found.add_argument(
        "--time",
        type=_time,
        default=600.0,
        metavar="10m",
        help="time for everything (default: 10m)",
    )
    found.add_argument(
        "--seeds", type=_seeds, default=3, metavar="N", help="runs per row (default: 3)"
    )
    found.add_argument("--config", type=Path, help="a .config or defconfig (default: .config)")
    found.add_argument("--out", type=Path, help="its folder (default: runs/matrix-compare-...)")
    found.add_argument("--quiet", action="store_true", help=argparse.SUPPRESS)  # make says it
    found.add_argument("--jobs", metavar="N", help="runs at a time, on each GPU or on the CPU")
    found.add_argument("--gpus", default="", metavar="0,1", help="which GPUs (default: all)")
    return found


def _time(text: str) -> float:
    digits = in_seconds(text)
    if not (digits.isascii() and digits.isdigit() and int(digits) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a time: write 90s, 10m or 1h")
    return float(digits)


def _seeds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 2 <= int(text) <= 100):
        raise argparse.ArgumentTypeError(
            f"SEEDS={text}: give 2 to 100 seeds; one seed cannot show a difference"
        )
    return int(text)


if __name__ == "__main__":
    run_entry("compare.py", lambda: main(sys.argv[1:]))
