"""The training loop: gradient accumulation, clipping, pruning, the optimizer's step."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from gpt2.config import faults
from gpt2.data.batches import TrainBatches
from gpt2.machine.ranks import DistributedContext
from gpt2.machine.shards import full_tensor
from gpt2.optim.precision import Precision
from gpt2.optim.schedule import Schedule
from gpt2.prune.pruner import Pruner


@dataclass(frozen=True)
class Parts:
    """The parts of training; see assembly.build_parts.

    forward: computes `model`'s loss; over several ranks it also averages gradients.
    flops_per_token: those that count in the MFU.
    peak_flops: the vendor's FLOP/s for the devices of all ranks together; None where unknown.
    """

    model: nn.Module
    forward: nn.Module
    ranks: DistributedContext
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    pruner: Pruner
    batches: TrainBatches
    gradient_accumulation: int
    grad_clip: float
    flops_per_token: float = 0.0
    peak_flops: float | None = None

    def mfu(self, tokens_per_second: float) -> float | None:
        """Return the share of the devices' peak speed that training reaches; None if unknown."""
        if self.peak_flops is None:
            return None
        return tokens_per_second * self.flops_per_token / self.peak_flops


@dataclass
class Progress:
    """How far the run is. `steps` and `max_time` (seconds) are its limits; None is no limit."""

    steps: int | None
    max_time: float | None
    step: int = 0
    elapsed: float = 0.0
    #: Global batches that rollbacks skipped, and the number of rollbacks.
    skipped_batches: int = 0
    rollbacks: int = 0
    _since: float = field(default_factory=time.perf_counter)

    @property
    def data_step(self) -> int:
        """Return the index of the next global batch: the step plus the skipped batches."""
        return self.step + self.skipped_batches

    def resume(
        self, step: int, elapsed: float, skipped_batches: int = 0, rollbacks: int = 0
    ) -> None:
        """Resume from a checkpoint."""
        self.step, self.elapsed = step, elapsed
        self.skipped_batches, self.rollbacks = skipped_batches, rollbacks

    def start(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def tick(self) -> None:
        """Add the time since the last call to `elapsed`."""
        now = time.perf_counter()
        self.elapsed += max(0.0, now - self._since)
        self._since = now

    def fraction(self) -> float:
        """Return the share of the run that is done, in [0, 1], by the nearest limit."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(self.step / self.steps)
        if self.max_time is not None:
            shares.append(self.elapsed / self.max_time)
        return min(1.0, max(shares))

    def done(self) -> bool:
        """Return whether a limit is reached."""
        return self.fraction() >= 1.0


@dataclass(frozen=True)
class Step:
    """The results of one step; the tensors are 0-d and still on the device."""

    loss: Tensor
    norm: Tensor
    rate: float


class Recorder(Protocol):
    """Called by the loop after every step."""

    def after_step(self, step: Step) -> bool:
        """Log, evaluate and save when due; False ends the run early."""
        ...


def train(parts: Parts, progress: Progress, recorder: Recorder) -> None:
    """Train until a limit is reached or the recorder ends the run.

    The loop itself reads no value back from the device.
    """
    parameters = [p for group in parts.optimizer.param_groups for p in group["params"]]
    progress.start()
    while not progress.done():
        faults.failpoint("step.begin")
        rate = parts.schedule.apply(parts.optimizer, progress.step, progress.fraction())
        loss = forward_backward(parts, progress.data_step)
        inject_gradient_fault(parameters)
        parts.precision.unscale(parts.optimizer)
        parts.pruner.mask_gradients(progress.step, progress.fraction())
        held = gradient_norm(parameters)
        norm = full_tensor(held)
        skip = parts.precision.check_step(loss, norm)
        parts.pruner.observe(skip)
        clip(parameters, parts.grad_clip, held)
        parts.precision.step(parts.optimizer, skip)
        parts.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.tick()
        if progress.max_time is not None:  # all ranks must prune by the same clock
            _, progress.elapsed = parts.ranks.all_reduce_stop(False, progress.elapsed)
        parts.pruner.apply(progress.step, progress.fraction())
        if not recorder.after_step(Step(loss, norm, rate)):
            return
        progress.start()  # evaluations and checkpoints are not training time
    # Time can run out while a step is logged: then the last pruning event is due now.
    parts.pruner.apply(progress.step, progress.fraction())


def forward_backward(parts: Parts, data_step: int) -> Tensor:
    """Accumulate gradients over the micro-batches of global batch `data_step`.

    Returns this rank's mean loss, 0-d, on the device.
    """
    total: Tensor | None = None
    factor = faults.factor("step.loss")
    for micro in range(parts.gradient_accumulation):
        inputs, targets = parts.batches.train(data_step, micro)
        last = micro == parts.gradient_accumulation - 1
        with parts.ranks.accumulate(parts.forward, last):
            with parts.precision.autocast():
                part = parts.forward(inputs, targets) / parts.gradient_accumulation
            if factor != 1.0:
                part = part * factor
            parts.precision.backward(part)
        total = part.detach() if total is None else total + part.detach()
    assert total is not None
    return total


def inject_gradient_fault(parameters: list[nn.Parameter]) -> None:
    """Injection point for fault tests: scale the gradients if a test asks for it."""
    if (factor := faults.factor("step.grad")) != 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Return the global norm of all gradients: 0-d, on the device, sharded as they are."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip(parameters: list[nn.Parameter], largest: float, norm: Tensor) -> None:
    """Scale the gradients, of global norm `norm`, down to a norm of `largest`; 0: do nothing.

    Pascanu et al. 2013, algorithm 1.
    """
    if largest > 0.0:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
