"""The ramp against the formula at each event, and when events fall."""

from __future__ import annotations

import pytest
import torch

from gpt2.prune.events import Events
from gpt2.prune.schedule import SparsitySchedule


def events(schedule: SparsitySchedule, steps: int, resumed_at: int | None = None) -> list[int]:
    """Steps with an event in a run of `steps` steps."""
    found = Events(schedule)
    happened = []
    for step in range(1, steps + 1):
        progress = step / steps
        if found.is_due(step, progress):
            found.advance(step, progress)
            happened.append(step)
        if step == resumed_at:
            state = found.tensor()
            found = Events(schedule)
            found.load(state)
    return happened


def test_cubic_is_zhu_and_guptas_formula_at_each_event() -> None:
    steps, final, begin, span, interval = 1000, 0.875, 100, 500, 25
    ramp = SparsitySchedule("cubic", 0.1, 0.6, final, interval)
    happened = events(ramp, steps)
    assert happened == list(range(begin, begin + span + 1, interval))
    for step in happened:
        # s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, with s_i = 0
        expected = final + (0.0 - final) * (1.0 - (step - begin) / span) ** 3
        assert ramp.sparsity(step / steps) == pytest.approx(expected, abs=1e-12)
    assert ramp.sparsity(0.6) == final
    assert ramp.sparsity(1.0) == final
    assert ramp.sparsity(0.05) == 0.0


def test_linear_and_step() -> None:
    linear = SparsitySchedule("linear", 0.2, 0.7, 0.5, None)
    assert [linear.sparsity(p) for p in (0.0, 0.2, 0.45, 0.7, 1.0)] == [
        0.0, 0.0, pytest.approx(0.25), 0.5, 0.5,
    ]  # fmt: skip
    step = SparsitySchedule("step", 0.3, 0.3, 0.9, None)
    assert [step.sparsity(p) for p in (0.29, 0.3, 1.0)] == [0.0, 0.9, 0.9]
    assert events(step, 10) == [3]
    assert events(SparsitySchedule("step", 1.0, 1.0, 0.9, None), 10) == [10]
    assert events(SparsitySchedule("step", 0.0, 0.0, 0.9, None), 10) == [1]


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 333, 5000])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.1, 0.6), (0.3, 0.7), (0.0, 0.001)])
def test_every_length_of_run_reaches_the_target(steps: int, start: float, end: float) -> None:
    for interval in (None, 1, 3):
        ramp = SparsitySchedule("cubic", start, end, 0.5, interval)
        happened = events(ramp, steps)
        assert ramp.sparsity(happened[-1] / steps) == 0.5
        at_end = next(step for step in range(1, steps + 1) if step / steps >= end)
        assert happened[-1] == at_end  # an event falls on the ramp's end, none after it


def test_auto_is_a_twentieth_of_the_ramp() -> None:
    happened = events(SparsitySchedule("cubic", 0.1, 0.6, 0.5, None), 10_000)
    assert happened == list(range(1000, 6001, 250))
    assert len(events(SparsitySchedule("cubic", 0.0, 0.5, 0.5, None), 20)) == 10  # every step


@pytest.mark.parametrize("interval", [None, 7])
def test_a_resume_changes_no_event(interval: int | None) -> None:
    ramp = SparsitySchedule("cubic", 0.15, 0.65, 0.5, interval)
    whole = events(ramp, 200)
    for step in (1, 29, 30, 31, 100, 129, 130, 131, 199):
        assert events(ramp, 200, resumed_at=step) == whole


def test_time_may_jump_over_the_ramp() -> None:
    found = Events(SparsitySchedule("cubic", 0.4, 0.5, 0.5, None))
    assert not found.is_due(1, 0.3)
    assert found.is_due(2, 0.9)
    found.advance(2, 0.9)
    assert not found.is_due(3, 1.0)
    assert torch.equal(found.tensor(), torch.tensor([2.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "schedule",
    [
        SparsitySchedule("cubic", 0.1, 0.6, 0.9, None),
        SparsitySchedule("cubic", 0.1, 0.6, 0.5, 40),
        SparsitySchedule("linear", 0.25, 1.0, 0.7, None),
        SparsitySchedule("linear", 0.0, 0.3, 0.7, 1000),
        SparsitySchedule("step", 0.5, 0.5, 0.9, None),
        SparsitySchedule("step", 0.0, 0.0, 0.9, None),
    ],
)
def test_the_average_is_that_of_every_step(schedule: SparsitySchedule) -> None:
    steps, found, held, total = 2000, Events(schedule), 0.0, 0.0
    for step in range(1, steps + 1):
        total += held  # what this step trains with
        if found.is_due(step, step / steps):
            held = schedule.sparsity(step / steps)
            found.advance(step, step / steps)
    assert schedule.average(steps) == pytest.approx(total / steps, abs=2e-3)
