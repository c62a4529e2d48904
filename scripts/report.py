"""Write a report of runs: report.html, report.md, results.csv and results.jsonl.

By default it reports the newest matrix in runs/. --matrix names another; --runs names runs, or
folders of runs (of one run: its result and curves). Unfinished work can be reported, too.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("report.py")

from gpt2.config.cli import Parser
from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError
from gpt2.config.schema import REPOSITORY
from scripts.reports.study import newest

RUNS = REPOSITORY / "runs"


def main(argv: list[str]) -> int:
    """Write the report that `argv` asks for, and print its verdict.

    Raises UserError.
    """
    arguments = parser().parse_args(argv)
    if arguments.check:  # before the packages are installed
        if not (arguments.runs or arguments.matrix):
            _newest_matrix()
        return Exit.OK
    try:  # Imported this late: the libraries for pictures and statistics take a second.
        from scripts.reports import output
    except ModuleNotFoundError as error:
        raise UserError(
            f"the report needs {error.name}, which this Python has not: 'make report' installs it"
        ) from error

    options = arguments.tuning_seeds, arguments.pooled, arguments.equivalence
    if arguments.runs:
        report = output.report_of_runs(arguments.runs, *options)
        to = arguments.to or (report.single.path if report.single else RUNS / "report")
    else:
        folder = arguments.matrix or _newest_matrix()
        report = output.report_of_matrix(folder, *options)
        to = arguments.to or folder
    output.write_all(to, output.texts_of(report))
    for line in output.verdict_lines(report):
        print(line)
    for remark in report.remarks:
        print(f"note: {remark}", file=sys.stderr)
    print(output.count_line(report))
    print(f"report: {to / 'report.html'}")
    return Exit.OK


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = Parser(prog="report.py", description=__doc__, allow_abbrev=False)
    what = found.add_mutually_exclusive_group()
    what.add_argument(
        "--matrix",
        "--out",
        dest="matrix",
        type=Path,
        metavar="FOLDER",
        help="the matrix to report (default: the newest in runs/); --out means the same",
    )
    what.add_argument(
        "--runs", type=Path, nargs="+", metavar="RUN", help="runs, or folders that hold runs"
    )
    found.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where to write (default: the matrix's folder, or that of the run; of several runs "
        "runs/report)",
    )
    found.add_argument(
        "--check", action="store_true", help="only check that there is something to report"
    )
    found.add_argument(
        "--tuning-seeds",
        type=int,
        nargs="*",
        metavar="SEED",
        help="seeds that only choose learning rates (default: those of the matrix, else the "
        "seeds that ran with several rates when others did not; no seed: nothing is chosen)",
    )
    found.add_argument(
        "--pooled",
        action="store_true",
        help="compare rows by one standard deviation of all rows of equal conditions, unless the "
        "test of equal variances rejects (default: each pair by its own)",
    )
    found.add_argument(
        "--equivalence",
        type=_margin,
        metavar="MARGIN",
        help="also test which rows are equal, or no worse, within MARGIN nats per token, such as "
        "0.005; choose it before you see results (default: not tested)",
    )
    return found


def _margin(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0.0):
        raise argparse.ArgumentTypeError(
            f"{text} is not a margin: give nats per token above 0, for example 0.005"
        )
    return value


def _newest_matrix() -> Path:
    found = newest(RUNS)
    if found is None:
        raise UserError(
            f"{RUNS} holds no matrix: 'make test-matrix' runs one, and "
            'make report RUNS="runs/a runs/b" reports any runs'
        )
    return found


if __name__ == "__main__":
    run_entry("report.py", lambda: main(sys.argv[1:]))
