"""Predict how long a run takes on this CPU, before it starts."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

from gpt2.config.text import joined, predicted_duration, rough_duration
from gpt2.config.typed import Config
from gpt2.machine import device, processor
from gpt2.model.build import forward_cost


@dataclass(frozen=True)
class Left:
    """The rest of a run: steps, sequences in each, seconds (None: no such limit).

    validation, test: tokens of these splits. started: whether the process of the run has started.
    """

    steps: int | None
    sequences: int
    seconds: float | None
    validation: int
    test: int = 0
    started: bool = True


@dataclass(frozen=True)
class Predicted:
    """Seconds of a run on this CPU. busy: the load during the measurement, or 0.

    start: seconds before the first step; 0 once that is over.
    """

    training: float
    evaluation: float
    start: float = 0.0
    busy: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds of the whole run."""
        return self.start + self.training + self.evaluation

    def __str__(self) -> str:
        """Return the prediction as text: about 1 to 3 min, its parts, and the machine's load."""
        text = f"about {predicted_duration(self.seconds)}"
        if self.training < 0.8 * self.seconds:
            parts = {"start": self.start, "training": self.training, "evaluation": self.evaluation}
            shown = [f"{rough_duration(took)} {what}" for what, took in parts.items() if took]
            text += f" ({joined(shown)})"
        if self.busy:
            text += f"; measured just now while the machine was busy (load {self.busy:.0f})"
        return text


def predicted(config: Config, parameters: int, left: Left) -> Predicted:
    """Predict how long the remaining steps and evaluations take on this CPU.

    Starting another process is taken to cost what this one has cost so far: both import torch.
    """
    model = config.model
    weights = parameters - model.block_size * model.n_embd  # positions are in no product
    cost = 3.0 * forward_cost(model, weights, left.sequences * model.block_size)
    per_step = device.predict_cpu_seconds(cost)
    training = math.inf if left.steps is None else left.steps * per_step
    if left.seconds is not None:
        training = min(training, max(0.0, left.seconds))
    interval, steps = config.train.eval_interval, math.ceil(training / per_step)
    evaluations = max(1, math.ceil(steps / interval)) if interval else 1  # with that of the end
    evaluated = evaluations * left.validation
    evaluated += 2 * left.test  # alone, and after validation
    load = processor.load()
    return Predicted(
        training,
        device.predict_cpu_seconds(forward_cost(model, weights, evaluated)),
        0.0 if left.started else time.process_time(),
        load if load > (os.cpu_count() or 1) else 0.0,
    )
