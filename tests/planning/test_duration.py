"""How long a run takes: what is known of its start, training and evaluations."""

from __future__ import annotations

import pytest

from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.typed import Config
from gpt2.planning import duration as module
from gpt2.planning.duration import Left, Predicted, predicted
from gpt2.planning.plan import plan
from gpt2.planning.text import facts, lines

SHAPE = ("--model", "custom", "--n-layer", "1", "--n-head", "1", "--n-embd", "8")
PARAMETERS = 2000


@pytest.fixture(autouse=True)
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU on which a forward pass over one token takes a hundredth of a second."""
    monkeypatch.setattr(module, "forward_cost", lambda model, weights, tokens: float(tokens))
    monkeypatch.setattr(module.device, "predict_cpu_seconds", lambda cost: cost / 100)
    monkeypatch.setattr(module.processor, "load", lambda: 0.0)
    monkeypatch.setattr(module.time, "process_time", lambda: 7.0)


def config(*more: str) -> Config:
    given = (*SHAPE, "--block-size", "10", "--device", "cpu", "--max-steps", "8", *more)
    return bind(parse("train.py", "", given, TrainActions)[0])


@pytest.mark.parametrize(
    ("interval", "evaluations"), [("0", 1), ("100", 1), ("8", 1), ("4", 2), ("3", 3)]
)
def test_the_evaluation_of_the_last_step_counts_once(interval: str, evaluations: int) -> None:
    time = predicted(config("--eval-interval", interval), PARAMETERS, Left(8, 5, None, 400))
    assert time.training == pytest.approx(8 * 3 * 5 * 10 / 100)
    assert time.evaluation == pytest.approx(evaluations * 4.0)


def test_a_limit_of_time_leaves_fewer_steps_and_evaluations() -> None:
    every_step = config("--eval-interval", "1")
    assert predicted(every_step, PARAMETERS, Left(8, 5, 3.0, 400, 50)) == Predicted(
        3.0, 2 * 4.0 + 2 * 0.5, 0.0, 0.0
    )
    by_time_alone = predicted(every_step, PARAMETERS, Left(None, 5, 6.0, 400))
    assert (by_time_alone.training, by_time_alone.evaluation) == (6.0, 16.0)


def test_a_plan_counts_the_start_and_a_run_that_has_started_does_not() -> None:
    left = Left(8, 5, None, 400, started=False)
    time = predicted(config(), PARAMETERS, left)
    assert (time.start, time.seconds) == (7.0, 7.0 + 12.0 + 4.0)
    assert str(time).endswith("s (7 s start, 12 s training and 4 s evaluation)")
    assert predicted(config(), PARAMETERS, Left(8, 5, None, 400)).start == 0.0


def test_parts_are_said_where_training_is_not_nearly_all() -> None:
    assert str(Predicted(100.0, 10.0)) == "about 1 to 3 min"
    assert str(Predicted(5.0, 10.0)).endswith("(5 s training and 10 s evaluation)")
    assert "busy (load 9)" in str(Predicted(5.0, 10.0, busy=9.2))


def test_a_plan_says_the_limit_of_time() -> None:
    planned = plan(config("--max-time", "90"), 65)
    told = facts(planned, None, None)
    assert "  length: at most 1 min 30 s of training, time unknown until the data are prepared" in (
        lines(planned, told)
    )
    assert told["max_time"] == 90.0
    assert "  length: unknown until the data are prepared" in lines(
        planned, {**told, "max_time": None}
    )
