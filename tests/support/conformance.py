"""What every optimizer must do, as checks over what builds it from parameter groups.

Each trains a tiny GPT of ours with the loop of training, and fails with an AssertionError. Nothing
in here knows an optimizer by name.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpt2.checkpoint import store
from gpt2.checkpoint.model_weights import load_model
from gpt2.checkpoint.optimizer_state import (
    load_optimizer,
    load_random_state,
    optimizer_tensors,
    random_state,
)
from gpt2.config.typed import ModelConfig
from gpt2.machine.ranks import DistributedContext
from gpt2.model.build import build_model
from gpt2.optim.groups import parameter_groups
from gpt2.optim.precision import Precision
from gpt2.optim.schedule import Schedule
from gpt2.prune.methods.none import Dense
from gpt2.training.loop import Parts, Progress, Step, clip, forward_backward, gradient_norm, train

Build = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

VOCABULARY, BLOCK, WIDTH = 13, 8, 16
#: Rates at one of which an optimizer must descend: some are made for 1, some for a thousandth.
RATES = (0.01, 0.001, 0.1, 1.0, 0.03, 10.0, 100.0)
#: Rate and strength under which decay is measured.
RATE, DECAY = 0.05, 0.5
#: Steps before a look: some move only after their sixth, when they know the variance.
LEAD = 7


@dataclass(frozen=True)
class Subject:
    """What is tested: how it is built, and the width of the model it is tested on.

    State is kept in 8 bits from a size on that only a wider model reaches.
    """

    build: Build
    width: int = WIDTH


class Spoilt(nn.Module):
    """A model whose loss, and so each gradient, is multiplied by `factor`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.factor = 1.0

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.model(inputs, targets)
        return loss * self.factor


class FixedBatches:
    """Three batches of a text whose next token follows from the last two, over and over."""

    def __init__(self) -> None:
        ids = [1, 2]
        while len(ids) < 1000:
            ids.append((3 * ids[-1] + ids[-2] + 1) % VOCABULARY)
        rows = torch.tensor(ids)[: 12 * (BLOCK + 1)].view(3, 4, BLOCK + 1)
        self.rows = rows

    def train(self, step: int, micro: int) -> tuple[Tensor, Tensor]:
        rows = self.rows[(step + micro) % 3]
        return rows[:, :-1], rows[:, 1:]


class Trial:
    """A tiny GPT under an optimizer, and the loop that trains it. `losses` are those of its steps.

    A run of `length` steps whose rate falls linearly to `final` of its height; all is constant
    without a length.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        rate: float = 0.01,
        decay: float = 0.1,
        precision: str = "fp32",
        length: int | None = None,
        final: float = 0.1,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        seed()
        cpu = torch.device("cpu")
        self.model = build_model(shape(dropout, subject.width), VOCABULARY, cpu, 0).to(dtype)
        optimizer = subject.build(parameter_groups(self.model, rate, decay))
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            if rate == 0.0:  # also where a group has a rate of its own
                group["initial_lr"] = group["lr"] = 0.0
        self.spoilt = Spoilt(self.model)
        kind = "constant" if length is None else "linear"
        self.parts = Parts(
            model=self.model,
            forward=self.spoilt,
            ranks=DistributedContext(),
            optimizer=optimizer,
            schedule=Schedule(kind, final, 0, length),
            precision=Precision(precision, cpu),
            pruner=Dense(),
            batches=FixedBatches(),  # type: ignore[arg-type]
            gradient_accumulation=1,
            grad_clip=1.0,
        )
        self.progress = Progress(length, None)
        self.losses: list[float] = []

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.parts.optimizer

    def run(self, steps: int) -> Trial:
        """Train `steps` steps more."""
        self._until = self.progress.step + steps
        if steps:
            train(self.parts, self.progress, self)
        return self

    def after_step(self, step: Step) -> bool:
        self.losses.append(float(step.loss))
        return self.progress.step < self._until

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def step_with(self, gradient: Callable[[str, Tensor], Tensor]) -> None:
        """Step with the gradients that `gradient` gives for a name and its weights."""
        for name, parameter in self.model.named_parameters():
            parameter.grad = gradient(name, parameter.detach()).clone()
        self.optimizer.step()

    def save(self, folder: Path) -> None:
        tensors, plain = optimizer_tensors(self.optimizer)
        state = {
            "optimizer": plain,
            "random": random_state(),
            "precision": self.parts.precision.state(),
        }
        made = store.Checkpoint(self.progress.step, self.weights(), tensors, state)
        store.save(folder, made)

    def load(self, folder: Path) -> Trial:
        found = store.load_last(folder, print)
        assert found is not None
        load_model(self.model, found)
        load_optimizer(self.optimizer, dict(found.optim), found.state["optimizer"])
        self.parts.precision.load(found.state["precision"])
        load_random_state(found.state["random"])
        self.progress.resume(found.step, 0.0)
        return self


def seed() -> None:
    """Put every global generator where each trial begins."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)


def shape(dropout: float, width: int) -> ModelConfig:
    return ModelConfig(
        model="custom",
        n_layer=2,
        n_head=2,
        n_embd=width,
        block_size=BLOCK,
        dropout=dropout,
        bias=True,
        flash_attention=True,
        activation_checkpointing="none",
        residual_precision=None,
        loss="full",
        loss_chunk_mib=None,
        init_from=None,
        keep_sparsity=None,
    )


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal to the bit."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


def moved(trial: Trial, before: dict[str, Tensor]) -> float:
    """The length of the way from `before`, over all weights."""
    after = trial.weights()
    return math.sqrt(sum(float((after[name] - before[name]).norm()) ** 2 for name in before))


def descending_rate(subject: Subject) -> float:
    """Return the first of RATES at which 60 steps bring the loss down by a tenth."""
    reached = {}
    for rate in RATES:
        losses = Trial(subject, rate=rate, decay=0.0, length=60).run(60).losses
        first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
        if last < 0.9 * first:
            return rate
        reached[rate] = last / first
    raise AssertionError(f"the loss comes down to these shares of the first: {reached}")


def descends(subject: Subject, folder: Path) -> None:
    """At one of RATES it learns what can be learnt."""
    assert descending_rate(subject) in RATES


def a_rate_of_zero_trains_nothing(subject: Subject, folder: Path) -> None:
    trial = Trial(subject, rate=0.0)
    before = trial.weights()
    trial.run(3)
    assert same(trial.weights(), before)


def the_schedule_changes_the_update(subject: Subject, folder: Path) -> None:
    """From one state, a quarter of the rate goes at most half as far, but somewhere."""
    ways = []
    for factor in (1.0, 0.25):
        trial = Trial(subject).run(LEAD)
        before = trial.weights()
        for group in trial.optimizer.param_groups:
            group["initial_lr"] *= factor
        trial.run(1)
        ways.append(moved(trial, before))
    whole, quarter = ways
    assert 0.0 < quarter < 0.95 * whole, f"a quarter of the rate: {quarter / whole} of the update"


def kind_of_decay(subject: Subject, dtype: torch.dtype = torch.float64) -> str:
    """Say what weight decay is, from steps on gradients of zero; "own" where it is nothing known.

    decoupled: it takes rate x decay x weight away. L2: it is the same as that much gradient, decay
    x weight. none: the weights stay. AssertionError when a vector decays, or nothing is finite.
    """
    rates: dict[str, float] = {}

    def places(decay: float, pull: float) -> list[dict[str, Tensor]]:
        trial = Trial(subject, rate=RATE, decay=decay, dtype=dtype)
        names = {id(p): name for name, p in trial.model.named_parameters()}
        for group in trial.optimizer.param_groups:
            rates.update({names[id(p)]: group["lr"] for p in group["params"]})
        found = [trial.weights()]
        for _ in range(LEAD + 2):
            trial.step_with(lambda name, w: pull * w if w.ndim >= 2 else torch.zeros_like(w))
            found.append(trial.weights())
        return found

    decayed, plain, pulled = places(DECAY, 0.0), places(0.0, 0.0), places(0.0, DECAY)
    assert all(torch.isfinite(weight).all() for weight in decayed[-1].values()), "not finite"
    for name, end in decayed[-1].items():
        if end.ndim < 2:
            assert torch.equal(end, plain[-1][name]), f"{name} decays, and is a vector"
    if same(decayed[-1], plain[-1]):
        return "none"
    matrices = [name for name, weight in decayed[0].items() if weight.ndim >= 2]

    def near(left: Tensor, right: Tensor) -> bool:
        return torch.allclose(left, right, rtol=1e-3, atol=1e-9)

    def decoupled(step: int, name: str) -> bool:
        before = decayed[step - 1][name]
        way, other = decayed[step][name] - before, plain[step][name] - plain[step - 1][name]
        return near(way - other, -rates[name] * DECAY * before)

    # Not the first steps: some only look at their first gradients.
    if all(decoupled(step, name) for step in (LEAD + 1, LEAD + 2) for name in matrices):
        return "decoupled"
    return "L2" if all(near(decayed[-1][n], pulled[-1][n]) for n in matrices) else "own"


def the_tied_matrix_is_updated_once(subject: Subject, folder: Path) -> None:
    """The model moves as loose copies of its parameters do, each of which is there once."""
    trial = Trial(subject).run(1)
    model = trial.model
    inside = [p for group in trial.optimizer.param_groups for p in group["params"]]
    assert len({id(p) for p in inside}) == len(inside) == len(list(model.parameters()))

    start, gradients = Trial(subject), Trial(subject)
    forward_backward(gradients.parts, 0)
    members = [p for group in gradients.optimizer.param_groups for p in group["params"]]
    clip(members, 1.0, gradient_norm(members))
    loose = {}
    for name, parameter in start.model.named_parameters():
        loose[name] = nn.Parameter(parameter.detach().clone())
    own = {id(p): loose[name] for name, p in start.model.named_parameters()}
    groups = parameter_groups(start.model, 0.01, 0.1)
    for group in groups:
        group["params"] = [own[id(p)] for p in group["params"]]
    seed()
    optimizer = subject.build(groups)
    for name, parameter in gradients.model.named_parameters():
        loose[name].grad = parameter.grad
    optimizer.step()
    assert same({name: p.detach() for name, p in loose.items()}, trial.weights())


def every_precision_stays_finite(subject: Subject, folder: Path) -> None:
    for precision in ("fp32", "bf16", "fp16"):
        trial = Trial(subject, precision=precision)
        before = trial.weights()
        trial.run(LEAD)
        assert int(trial.parts.precision.step_guard.skipped) == 0, precision
        after = trial.weights()
        assert all(torch.isfinite(weight).all() for weight in after.values()), precision
        assert not same(after, before), precision
        assert all(weight.dtype == torch.float32 for weight in after.values()), precision


def a_refused_step_leaves_no_trace(subject: Subject, folder: Path) -> None:
    """Weights and state stay; a refused first step may make state, all of it 0."""
    for precision in ("fp32", "fp16"):
        trial = Trial(subject, precision=precision)
        for before in (0, LEAD):  # also as the very first step, where state is made
            trial.run(before)
            weights, (tensors, plain) = trial.weights(), optimizer_tensors(trial.optimizer)
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
            text = json.dumps(plain)
            trial.spoilt.factor = math.nan
            trial.run(1)
            trial.spoilt.factor = 1.0
            after, rest = optimizer_tensors(trial.optimizer)
            assert same(trial.weights(), weights), precision
            made = {name: after.pop(name) for name in after.keys() - tensors.keys()}
            assert not any(tensor.any() for tensor in made.values()), precision
            assert same(after, tensors), precision
            assert json.dumps(rest) == text, precision
        trial.run(1)
        assert all(torch.isfinite(weight).all() for weight in trial.weights().values())
        assert not same(trial.weights(), weights)


def state_survives_a_checkpoint(subject: Subject, folder: Path) -> None:
    """All that is in the state comes back out of the files, in its own number format."""
    trial = Trial(subject).run(LEAD)
    trial.save(folder)
    fresh = Trial(subject).load(folder)
    wanted, plain = optimizer_tensors(trial.optimizer)
    found, rest = optimizer_tensors(fresh.optimizer)
    assert same(found, wanted)
    assert json.loads(json.dumps(rest)) == json.loads(json.dumps(plain))


def resume_is_exact(subject: Subject, folder: Path) -> None:
    """14 steps equal 7, a checkpoint, and 7 in a new optimizer, under dropout and a schedule."""
    whole = Trial(subject, length=2 * LEAD, dropout=0.1).run(2 * LEAD)
    Trial(subject, length=2 * LEAD, dropout=0.1).run(LEAD).save(folder)
    rest = Trial(subject, length=2 * LEAD, dropout=0.1).load(folder).run(LEAD)
    assert same(rest.weights(), whole.weights())
    assert rest.losses == whole.losses[LEAD:]


CHECKS: tuple[Callable[[Subject, Path], None], ...] = (
    descends,
    a_rate_of_zero_trains_nothing,
    the_schedule_changes_the_update,
    the_tied_matrix_is_updated_once,
    every_precision_stays_finite,
    a_refused_step_leaves_no_trace,
    state_survives_a_checkpoint,
    resume_is_exact,
)


def draws_random_numbers(subject: Subject) -> bool:
    """Whether a step draws from a global generator: ranks would then go different ways."""
    trial = Trial(subject)
    for _ in range(3):
        before = random_state()
        trial.step_with(lambda name, w: torch.ones_like(w))
        if random_state() != before:
            return True
    return False
