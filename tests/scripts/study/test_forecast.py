"""How long a cell takes, predicted from a short run: its start and evaluations are part of it."""

from __future__ import annotations

import pytest

from scripts.study.forecast import seconds
from scripts.study.records import Probe
from scripts.study.state import CellState
from tests.support.small_cells import cell_record

SHORT = Probe(
    step_seconds=0.5, evaluation_seconds=2.0, other_seconds=7.0, peak_host_bytes=1,
    peak_device_bytes=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "max_time", "eval_interval", "wanted"),
    [
        (10, 0, 0, 7 + 5 + 2),
        (100, 0, 25, 7 + 50 + 4 * 2),  # evaluations after 25, 50, 75 and 100 steps
        (None, 20, 0, 7 + 20 + 2),
        (None, 20, 10, 7 + 20 + 4 * 2),  # 40 steps in 20 s
        (1000, 20, 0, 7 + 20 + 2),  # the time ends it
    ],
)
def test_start_and_evaluations_are_counted(
    steps: int | None, max_time: float, eval_interval: int, wanted: float
) -> None:
    cell = cell_record(steps=steps, max_time=max_time, eval_interval=eval_interval)
    assert seconds([cell], {"a": CellState()}, {"a": SHORT}) == {"a": wanted}


def test_what_was_measured_comes_before_what_is_predicted() -> None:
    cells = [cell_record(name="a", kind="a"), cell_record(name="b", kind="b")]
    states = {"a": CellState(seconds=[30.0, 40.0]), "b": CellState()}
    assert seconds(cells, states, {"a": SHORT}) == {"a": 35.0, "b": 35.0}
