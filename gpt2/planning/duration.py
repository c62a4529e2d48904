"""How long a run takes on this CPU, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2.config.typed import Config
from gpt2.machine import device
from gpt2.model.build import forward_cost


@dataclass(frozen=True)
class Left:
    """What is left of a run: steps, sequences in each, seconds (None: no limit).

    validation, test: tokens of these splits.
    """

    steps: int
    sequences: int
    seconds: float | None
    validation: int
    test: int = 0


def predicted_seconds(config: Config, parameters: int, left: Left) -> float:
    """Predict how long the steps and evaluations that are left take."""
    model = config.model
    weights = parameters - model.block_size * model.n_embd  # positions take part in no product
    trained = left.steps * left.sequences * model.block_size
    seconds = device.predict_cpu_seconds(3.0 * forward_cost(model, weights, trained))
    if left.seconds is not None:
        seconds = min(seconds, max(0.0, left.seconds))
    interval = config.train.eval_interval
    evaluated = (1 + (left.steps // interval if interval else 0)) * left.validation
    evaluated += 2 * left.test  # alone, and behind validation
    return seconds + device.predict_cpu_seconds(forward_cost(model, weights, evaluated))
