"""Measure how often confidence intervals of the data-efficiency factor contain the truth.

Simulated studies with a known factor, five seeds each, as a table in Markdown; `docs/report.md`
holds the table. It takes about a minute; --studies makes it shorter.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("efficiency_table.py")

from collections.abc import Sequence

import numpy as np

from gpt2.config.cli import Parser
from gpt2.config.entry import run_entry
from gpt2.config.text import markdown_table
from scripts.reports.efficiency import factor

#: The control's true curve: loss = A tokens^-B + C, 2.1 at the shortest horizon.
A, B, C = 57.0, 0.3, 1.2
#: Standard deviations of a seed's effect, which control and contender share, and of a run's.
SEED, RUN = 0.02, 0.005
SEEDS, SHORTEST = 5, 1e6
FACTORS = (1.1, 1.25, 1.5, 1.75, 2.0)
#: Lengths of the runs, as multiples of the shortest.
HORIZONS = ((1, 2, 4), (1, 2, 4, 8))


@dataclass(frozen=True)
class Coverage:
    """Results of many simulated studies.

    covered: share of intervals that contain the truth; a study without a factor counts as a miss.
    bias, scatter: of factor / truth - 1.
    """

    covered: float
    bias: float
    scatter: float


def coverage(truth: float, multiples: Sequence[int], studies: int, random_seed: int) -> Coverage:
    """Simulate `studies` studies with the factor `truth` at their longest horizon."""
    rng = np.random.default_rng(random_seed)
    tokens = SHORTEST * np.array(multiples, dtype=float)
    longest = float(tokens[-1])
    held, errors = 0, []
    for _ in range(studies):
        shift = rng.normal(0.0, SEED, SEEDS)
        control = A * tokens[:, None] ** -B + C + shift
        control = control + rng.normal(0.0, RUN, control.shape)
        contender = A * (truth * longest) ** -B + C + shift + rng.normal(0.0, RUN, SEEDS)
        found = factor(tokens.tolist(), control.tolist(), contender.tolist(), longest)
        if found is None or found.low is None or found.high is None:
            continue
        held += found.low <= truth <= found.high
        errors.append(found.factor / truth - 1.0)
    return Coverage(held / studies, float(np.mean(errors)), float(np.std(errors)))


def table(studies: int) -> str:
    """Return the table: a row for each factor and number of horizons."""
    titles = ["horizons", "true factor", "intervals that hold it", "mean error", "scatter"]
    lines: list[list[str]] = []
    for multiples in HORIZONS:
        for truth in FACTORS:
            found = coverage(truth, multiples, studies, random_seed=len(lines))
            lines.append(
                [
                    str(len(multiples)),
                    f"{truth:g}",
                    f"{100.0 * found.covered:.1f} %",
                    f"{100.0 * found.bias:+.1f} %",
                    f"{100.0 * found.scatter:.1f} %",
                ]
            )
    return markdown_table(titles, lines)


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    parser = Parser(prog="efficiency_table.py", description=__doc__)
    parser.add_argument(
        "--studies", type=int, default=1000, metavar="N", help="studies to a line (default: 1000)"
    )
    print(table(parser.parse_args(argv).studies))
    return 0


if __name__ == "__main__":
    run_entry("efficiency_table.py", lambda: main(sys.argv[1:]))
