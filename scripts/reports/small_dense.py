"""The small dense control: sparse training against a smaller dense model of equal size.

A sparse row is compared with a dense one of another size. Its number of parameters is the average
that the sparse row had over its training (Jin et al. 2025, The journey matters: that average, not
the final number, tells what a sparse run learns).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from scripts.reports.option_values import of_pruning
from scripts.reports.rows import DENSE, MODEL_SIZE, Row, differences
from scripts.reports.runs import Run

#: Largest relative deviation of a control's parameters from the average: widths come in steps.
TOLERANCE = 0.05


def small_control(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the dense row closest in average parameters; None where none is close enough.

    It may differ in its size, in all of pruning and in its learning rate, whose default depends on
    the size.
    """
    average = average_parameters(row)
    if average is None:
        return None
    free = {*MODEL_SIZE, "LEARNING_RATE"}
    found = []
    for other in rows:
        names = differences(row, other).keys()
        sized = other.of("parameters")
        if (
            other.method == DENSE
            and sized is not None
            and names & set(MODEL_SIZE)
            and all(of_pruning(name) or name in free for name in names)
            and abs(sized / average - 1.0) <= TOLERANCE
        ):
            found.append((abs(sized / average - 1.0), other))
    return min(found, key=lambda each: each[0])[1] if found else None


def average_parameters(row: Row) -> float | None:
    """Return the number of unpruned parameters, as a mean over steps and seeds."""
    if row.method == DENSE:
        return None
    values = [found for run in row.runs if (found := _average(run)) is not None]
    return statistics.fmean(values) if values else None


def _average(run: Run) -> float | None:
    """Return the mean over the steps of a run, linear between logged steps."""
    parameters, steps = run.measured("parameters"), run.measured("steps")
    final, whole = run.measured("sparsity_reached"), run.measured("sparsity_whole")
    if not parameters or not steps or not final or whole is None:
        return None
    points = [(step, sparsity) for step, sparsity in run.sparsities if step < steps]
    points.append((int(steps), final))
    # A run at its final sparsity when first logged had it from the start.
    start = final if points[0][1] >= final and len(points) > 1 else 0.0
    area = sum(
        (later[0] - sooner[0]) * (later[1] + sooner[1]) / 2.0
        for sooner, later in itertools.pairwise([(0, start), *points])
    )
    return parameters * (1.0 - area / steps * whole / final)
