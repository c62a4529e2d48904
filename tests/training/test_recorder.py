"""What the line of an evaluation says: the lowest loss so far, and the best checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpt2.config.errors import Exit
from gpt2.session.attempt import Attempt
from gpt2.training.loop import Step
from gpt2.training.recorder import RunRecorder
from tests.support import tiny

#: The validation loss after each step, and what its line ends with. Every second step is saved.
LOSSES = {
    1: (5.0, " (best so far)"),
    2: (4.0, " (best so far, saved)"),
    3: (3.0, " (best so far)"),  # the run is stopped and resumed here
    4: (3.5, " (best checkpoint so far)"),
    5: (3.2, ""),
    6: (2.0, " (best so far, saved)"),
}


@pytest.mark.slow
def test_the_lowest_loss_is_marked_whether_it_is_saved_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = tiny.make_data(tmp_path / "data"), tmp_path / "run"
    flags = ("--max-steps", "6", "--eval-interval", "1", "--checkpoint-interval", "2")
    original = RunRecorder.after_step

    def after_step(self: RunRecorder, step: Step) -> bool:
        going_on = original(self, step)
        if self.progress.step == 3:
            self._stop.signal = "a test"
        return going_on and not self.stopping

    monkeypatch.setattr(Attempt, "evaluate", lambda self: LOSSES[self.progress.step][0])
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "after_step", after_step)
        assert tiny.train(data, run, *flags) == Exit.PREEMPTED
    assert tiny.train(data, run, *flags) == Exit.OK
    lines = re.findall(
        r"^step (\d+): validation loss ([\d.]+), perplexity [\d.]+(.*)$",
        (run / "log.txt").read_text(),
        re.MULTILINE,
    )
    assert {int(step): (float(loss), mark) for step, loss, mark in lines} == LOSSES
