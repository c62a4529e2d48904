"""Schedules against formulas written out here, step by step over whole runs."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from gpt2.optim.schedule import Schedule

KINDS = ("cosine", "linear", "wsd", "constant")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def factors(schedule: Schedule, steps: int) -> list[float]:
    """The factor at every step of a run that ends by its steps, and at its end."""
    return [schedule.factor(step, step / steps) for step in range(steps + 1)]


def expected(kind: str, step: int, steps: int, warmup: int, final: float, decay: float) -> float:
    """The factor in terms of steps alone."""
    if step + 1 < warmup:
        return (step + 1) / warmup
    after = min(max(step - warmup, 0) / (steps - warmup), 1.0)  # since the warm-up, 0 to 1
    if kind == "cosine":
        return final + (1.0 - final) * (1.0 + math.cos(math.pi * after)) / 2.0
    if kind == "linear":
        return 1.0 - (1.0 - final) * after
    if kind == "wsd":
        begin = max(steps * (1.0 - decay), warmup)
        return 1.0 if step <= begin else 1.0 - (1.0 - final) * (step - begin) / (steps - begin)
    return 1.0


@EVERY_KIND
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("warmup", [0, 1, 7, 100])
def test_formulas(kind: str, final: float, warmup: int) -> None:
    steps = 240
    for decay in (0.05, 0.5, 1.0):
        found = factors(Schedule(kind, final, warmup, steps, decay), steps)
        wanted = [expected(kind, s, steps, warmup, final, decay) for s in range(steps + 1)]
        assert found == pytest.approx(wanted, abs=1e-12)


@EVERY_KIND
@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 1), (9, 1), (100, 5), (1000, 50), (40_000, 2000), (10**6, 2000)]
)
def test_automatic_warmup_is_a_twentieth_and_at_most_2000_steps(
    kind: str, steps: int, warmup: int
) -> None:
    automatic, given = Schedule(kind, 0.1, None, steps), Schedule(kind, 0.1, warmup, steps)
    points = {0, 1, 2, steps - 1, *range(0, steps, max(1, steps // 500))}
    points |= {warmup + shift for shift in (-2, -1, 0, 1) if 0 <= warmup + shift < steps}
    for step in sorted(points):
        progress = step / steps
        assert automatic.factor(step, progress) == pytest.approx(given.factor(step, progress))


@EVERY_KIND
def test_a_warmup_longer_than_the_run_only_rises(kind: str) -> None:
    found = factors(Schedule(kind, 0.1, 300, 100), 100)
    assert found == pytest.approx([(step + 1) / 300 for step in range(101)])
    # One exactly as long reaches the full rate with its last step.
    assert factors(Schedule(kind, 0.1, 100, 100), 100)[98:100] == pytest.approx([0.99, 1.0])


@EVERY_KIND
@pytest.mark.parametrize("warmup", [None, 0, 30])
@pytest.mark.parametrize("decay", [0.0, 0.2, 1.0])
def test_rises_then_falls_to_its_final_value(kind: str, warmup: int | None, decay: float) -> None:
    found = factors(Schedule(kind, 0.25, warmup, 200, decay), 200)
    top = max(range(201), key=lambda step: found[step])
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert max(found) == pytest.approx(1.0, abs=0.01)
    assert min(found) > 0.0
    # wsd without a decay never falls, as a constant rate never does.
    flat = kind == "constant" or (kind == "wsd" and decay == 0.0)
    assert found[-1] == pytest.approx(1.0 if flat else 0.25)


@EVERY_KIND
@pytest.mark.parametrize("seconds", [0.001, 1.0])
def test_a_run_ended_by_time_follows_time(kind: str, seconds: float) -> None:
    """Of 1000 seconds, at so many seconds a step; warm-up is 5 % of the time or 2000 steps."""
    schedule = Schedule(kind, 0.1, None, None)
    total = round(1000 / seconds)
    found = {}
    for step in range(0, total, total // 1000):
        progress = step / total
        found[progress] = schedule.factor(step, progress)
        rise = max(progress / 0.05, (step + 1) / 2000)
        if rise < 1.0:
            assert found[progress] == pytest.approx(rise)
        elif progress > 0.05:
            assert found[progress] == pytest.approx(
                expected(kind, round(progress * 1000), 1000, 50, 0.1, 0.2)
            )
    assert max(found.values()) == pytest.approx(1.0, abs=0.01)
    assert schedule.factor(total, 1.0) == pytest.approx(1.0 if kind == "constant" else 0.1)


@EVERY_KIND
def test_a_given_warmup_counts_steps_where_time_ends_the_run(kind: str) -> None:
    schedule = Schedule(kind, 0.1, 10, None)
    assert [schedule.factor(step, 0.0) for step in range(12)] == pytest.approx(
        [min(1.0, (step + 1) / 10) for step in range(12)]
    )
    assert schedule.factor(10, 1.0) == pytest.approx(1.0 if kind == "constant" else 0.1)


def test_automatic_warmup_follows_the_limit_in_force() -> None:
    """10,000 steps are allowed, but time ends the run at 100: it still warms up and cools down."""
    schedule = Schedule("linear", 0.0, None, 10_000)
    found = [schedule.factor(step, step / 100) for step in range(101)]
    assert found[4] == pytest.approx(0.8)
    assert found[5] == pytest.approx(1.0)
    assert found[50] == pytest.approx(0.5 / 0.95)
    assert found[100] == 0.0


@EVERY_KIND
def test_factors_have_no_memory(kind: str) -> None:
    schedule = Schedule(kind, 0.1, 20, 200)
    forwards = factors(schedule, 200)
    backwards = [schedule.factor(step, step / 200) for step in reversed(range(201))]
    assert backwards[::-1] == forwards
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.steps = 3  # type: ignore[misc]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        Schedule("square", 0.1, 0, 10).factor(5, 0.5)


def test_apply_sets_each_groups_own_rate_times_the_factor() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": [second], "lr": 0.02}])
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    schedule = Schedule("linear", 0.0, 0, 10)
    for step in (8, 2, 8):  # from the group's first rate, never from the last one
        rate = schedule.apply(optimizer, step, step / 10)
        assert rate == pytest.approx(0.5 * (1.0 - step / 10))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate / 25])
