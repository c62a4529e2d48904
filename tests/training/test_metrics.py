"""The time left, by the last steps of the session."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import RunFolder
from gpt2.training.loop import Parts, Progress
from gpt2.training.metrics import Metrics


def metrics(progress: Progress) -> Metrics:
    folder = cast(RunFolder, SimpleNamespace(tracking=None))
    console = cast(Console, SimpleNamespace(live=False))
    return Metrics(folder, console, cast(Parts, None), progress)


def steps(made: Metrics, progress: Progress, count: int, seconds: float) -> str:
    for _ in range(count):
        progress.step += 1
        progress.elapsed += seconds
        made.after_step()
    return made._left()


def test_the_time_left_is_by_the_last_steps_and_not_before_the_fifth() -> None:
    progress = Progress(1000, None)
    made = metrics(progress)
    assert steps(made, progress, 4, 60.0) == ""
    assert steps(made, progress, 1, 60.0) == "16 h 35 min left"
    # The slow first steps are forgotten.
    assert steps(made, progress, 21, 0.5) == "8 min 07 s left"
    made.restart()  # as after a resume on another machine
    assert made._left() == ""
    assert steps(made, progress, 6, 1.0) == "16 min 08 s left"
    progress.step = 1000
    assert made._left() == "0 s left"


@pytest.mark.parametrize(("steps_", "said"), [(None, "90 s"), (100, "90 s"), (10, "10 s")])
def test_the_nearest_limit_counts(steps_: int | None, said: str) -> None:
    progress = Progress(steps_, 100.0)
    made = metrics(progress)
    assert steps(made, progress, 5, 2.0).replace("1 min 30 s", "90 s") == f"{said} left"
    if steps_ is None:
        assert made._at() == "step 5  "
