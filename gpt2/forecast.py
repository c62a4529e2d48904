"""How long a run takes on this CPU, before it starts."""

from __future__ import annotations

from gpt2.config.typed import Config
from gpt2.data.batches import TrainBatches
from gpt2.data.tokens import TokenFile
from gpt2.model.gpt import GPT, forward_cost
from gpt2.training import machine
from gpt2.training.loop import Clock


def predicted_seconds(
    config: Config, model: GPT, clock: Clock, batches: TrainBatches, validation: TokenFile
) -> float:
    """Predict how long the steps (clock.steps is known) and evaluations that are left take."""
    assert clock.steps is not None
    weights = model.parameter_count() - model.transformer.wpe.weight.numel()
    left = clock.steps - clock.step
    trained = left * batches.effective_batch * config.model.block_size
    seconds = machine.predict_cpu_seconds(3.0 * forward_cost(config.model, weights, trained))
    if clock.max_time is not None:
        seconds = min(seconds, max(0.0, clock.max_time - clock.elapsed))
    interval = config.train.eval_interval
    evaluated = (1 + (left // interval if interval else 0)) * len(validation.ids)
    return seconds + machine.predict_cpu_seconds(forward_cost(config.model, weights, evaluated))
