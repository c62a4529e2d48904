"""The split of a report's losses: test where every reported run has it, else validation.

Curves and the choice of learning rates always use the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.config.text import counted
from scripts.reports.runs import Run

VALIDATION, TEST = "validation", "test"
#: The entry of summary.json with the loss over a split.
LOSS = {VALIDATION: "val_loss", TEST: "test_loss"}


def quoted_split(reported: Sequence[Run]) -> str:
    """Return the split whose losses are reported: one for the whole page, so that rows compare.

    It is test where all finished `reported` runs have a loss over it.
    """
    finished = [run for run in reported if run.finished]
    return TEST if finished and all(map(_tested, finished)) else VALIDATION


def split_note(reported: Sequence[Run]) -> str:
    """Return a sentence about the split of the losses, and why; empty without a finished run."""
    finished = [run for run in reported if run.finished]
    if not finished:
        return ""
    if quoted_split(reported) == TEST:
        return (
            "Losses are of the test split, by which nothing was chosen. "
            "Curves and tuning are of the validation split."
        )
    without = sum(not _tested(run) for run in finished)
    which = (
        "the runs" if without == len(finished) else f"{without} of {counted(len(finished), 'run')}"
    )
    verb = "has" if without == 1 and len(finished) > 1 else "have"
    return (
        f"Losses are of the validation split, by which rates may have been chosen: {which} {verb} "
        "no test loss (older data or an older version)."
    )


def _tested(run: Run) -> bool:
    return run.measured(LOSS[TEST]) is not None
