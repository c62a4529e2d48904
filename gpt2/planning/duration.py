"""Predict how long a run takes on this CPU, before it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gpt2.config.text import predicted_duration, rough_duration
from gpt2.config.typed import Config
from gpt2.machine import device, processor
from gpt2.model.build import forward_cost


@dataclass(frozen=True)
class Left:
    """The rest of a run: steps, sequences in each, seconds (None: no limit).

    validation, test: tokens of these splits.
    """

    steps: int
    sequences: int
    seconds: float | None
    validation: int
    test: int = 0


@dataclass(frozen=True)
class Predicted:
    """Seconds of a run on this CPU. busy: the load during the measurement, or 0."""

    training: float
    evaluation: float
    busy: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds of the whole run."""
        return self.training + self.evaluation

    def __str__(self) -> str:
        """Return the prediction as text: about 1 to 3 min, its parts, and the machine's load."""
        text = f"about {predicted_duration(self.seconds)}"
        if self.evaluation > 0.2 * self.seconds:
            parts = rough_duration(self.training), rough_duration(self.evaluation)
            text += f" ({parts[0]} training and {parts[1]} evaluation)"
        if self.busy:
            text += f"; measured just now while the machine was busy (load {self.busy:.0f})"
        return text


def predicted(config: Config, parameters: int, left: Left) -> Predicted:
    """Predict how long the remaining steps and evaluations take on this CPU."""
    model = config.model
    weights = parameters - model.block_size * model.n_embd  # positions are in no product
    trained = left.steps * left.sequences * model.block_size
    seconds = device.predict_cpu_seconds(3.0 * forward_cost(model, weights, trained))
    if left.seconds is not None:
        seconds = min(seconds, max(0.0, left.seconds))
    interval = config.train.eval_interval
    evaluated = (1 + (left.steps // interval if interval else 0)) * left.validation
    evaluated += 2 * left.test  # alone, and after validation
    load = processor.load()
    return Predicted(
        seconds,
        device.predict_cpu_seconds(forward_cost(model, weights, evaluated)),
        load if load > (os.cpu_count() or 1) else 0.0,
    )
