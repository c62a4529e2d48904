"""AdamW with SPAM: each of its parts by hand, all of them against the paper and a library."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from pytorch_optimizer import SPAM
from pytorch_optimizer.optimizer.spam import CosineDecay
from torch import Tensor

from gpt2.checkpoint.optimizer_state import load_optimizer, optimizer_tensors
from gpt2.config import plugins
from gpt2.config.errors import UserError
from gpt2.optim.groups import parameter_groups
from tests.support.small import PACKAGE, Small, bound, build, run

NAME = "ADAMWSPAM"
OFF = {f"{NAME}_THETA": "0", f"{NAME}_INTERVAL": "0"}


def spam(model: Small, decay: float = 0.1, **own: object) -> torch.optim.Optimizer:
    """SPAM at a rate of 0.01, its options by their own names."""
    given = {f"{NAME}_{key.upper()}": str(value) for key, value in own.items()}
    return build("adamwspam", model, rate=0.01, decay=decay, **given)


def spiky(model: Small, seed: int) -> None:
    """Give gradients of which every seventh number is 30 times too large."""
    model.give_gradients(seed)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.view(-1)[seed % 7 :: 7] *= 30.0


def test_without_its_parts_it_is_adamw_to_the_bit() -> None:
    model, other = Small(), Small()
    found = run(build("adamwspam", model, rate=0.01, **OFF), model, 40)
    reference = torch.optim.AdamW(
        parameter_groups(other, 0.01, 0.1), betas=(0.9, 0.999), eps=1e-6, foreach=False
    )
    expected = run(reference, other, 40)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_spike_by_hand() -> None:
    model = Small(torch.float64)
    optimizer = spam(model, beta1=0.5, beta2=0.5, theta=4, grace=2, interval=0)
    for size in (1.0, -100.0):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, size)
        optimizer.step()
    # v is 1/2 after the first gradient, 1, so that the second, -100, becomes -sqrt(4 / 2).
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        torch.testing.assert_close(
            state["exp_avg_sq"], torch.full_like(parameter, 0.5 * 0.5 + 0.5 * 2.0)
        )
        torch.testing.assert_close(
            state["exp_avg"], torch.full_like(parameter, 0.5 * 0.5 - 0.5 * math.sqrt(2.0))
        )
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, -math.sqrt(2.0)))


def test_what_is_no_spike_is_left_alone() -> None:
    model = Small()
    optimizer = spam(model)
    for seed in range(30):
        model.give_gradients(seed)
        before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        after = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))


def paper(
    w: float, gradients: list[float], decay: float, restart_bias: bool
) -> tuple[list[float], dict[str, int]]:
    """Weights after each step by algorithm 1, and how often each part acted.

    theta 2, interval 7, grace 3, warm-up 4, betas 0.8 and 0.9, epsilon 0.01, rate 0.01.
    """
    m = v = 0.0
    counted, acted, found = 0, {"reset": 0, "clip": 0, "warm-up": 0}, []
    for t, gradient in enumerate(gradients, 1):
        g = gradient
        counted += 1
        position, scale = t % 7, 1.0
        if position == 0:
            m = v = 0.0
            counted = 1 if restart_bias else counted
            acted["reset"] += 1
        if t >= 7 and position < 4:
            scale = 1.0 - 0.99 * (1.0 + math.cos(math.pi * position / 5.0)) / 2.0
            acted["warm-up"] += 1
        if position >= 3 and g * g > 2.0 * v:
            g = math.copysign(math.sqrt(2.0 * v), g)
            acted["clip"] += 1
        m = 0.8 * m + 0.2 * g
        v = 0.9 * v + 0.1 * g * g
        step = (m / (1.0 - 0.8**counted)) / (math.sqrt(v / (1.0 - 0.9**counted)) + 0.01)
        w = w * (1.0 - 0.01 * decay) - 0.01 * scale * step
        found.append(w)
    return found, acted


CYCLE = {
    "theta": 2, "interval": 7, "grace": 3, "warmup": 4, "beta1": 0.8, "beta2": 0.9, "eps": 0.01,
}  # fmt: skip


@pytest.mark.parametrize("restart_bias", [False, True])
def test_reset_grace_and_warm_up_step_by_step(restart_bias: bool) -> None:
    model = Small(torch.float64)
    start = model.copies()
    optimizer = spam(model, decay=0.3, restart_bias="y" if restart_bias else "n", **CYCLE)
    gradients: list[dict[str, Tensor]] = []
    weights: list[dict[str, Tensor]] = []
    for seed in range(17):
        spiky(model, seed)
        gradients.append(
            {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        )
        optimizer.step()
        weights.append(model.copies())
    clipped = 0
    for key, first in start.items():
        for place in range(0, first.numel(), 5):
            own = [float(step[key].flatten()[place]) for step in gradients]
            decay = 0.3 if first.ndim == 2 else 0.0
            wanted, acted = paper(float(first.flatten()[place]), own, decay, restart_bias)
            found = [float(step[key].flatten()[place]) for step in weights]
            assert found == pytest.approx(wanted, rel=1e-12, abs=1e-12)
            clipped += acted.pop("clip")
            assert acted == {"reset": 2, "warm-up": 8}
    assert clipped > 50


def test_the_rate_is_left_as_the_schedule_set_it() -> None:
    model = Small()
    optimizer = spam(model, **CYCLE)
    rates = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    run(optimizer, model, 9)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == rates


def test_it_is_the_librarys_at_full_density() -> None:
    model, other = Small(), Small()
    ours = spam(model, decay=0.0, theta=2, interval=12, grace=3, warmup=0, eps=1e-12)
    theirs = SPAM(
        list(other.parameters()), lr=0.01, density=1.0, weight_decay=0.0, warmup_epoch=0,
        threshold=2, grad_accu_steps=3, update_proj_gap=12, eps=1e-12,
    )  # fmt: skip
    for seed in range(30):
        spiky(model, seed)
        spiky(other, seed)
        ours.step()
        theirs.step()
    for one, reference in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, reference, atol=1e-6, rtol=0.0)


def test_the_warm_up_is_the_librarys_one_step_later() -> None:
    # The library leaves the first value of the cosine out, which the authors' program has.
    factor: Any = plugins.load(PACKAGE, "adamwspam").warmup_factor
    assert factor(0, 50) == pytest.approx(0.01)
    assert [factor(position, 50) for position in (50, 51, 400)] == [1.0, 1.0, 1.0]
    theirs = CosineDecay(0.99, 50)
    for position in range(49):
        reference = 1.0 - theirs.get_death_rate(position)
        assert factor(position + 1, 50) == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("cut", [3, 8, 16])
def test_going_on_within_a_cycle_is_going_on(cut: int) -> None:
    results = []
    for interrupted in (False, True):
        model = Small()
        optimizer = spam(model, **CYCLE)
        for seed in range(20):
            if interrupted and seed == cut:
                tensors, plain = optimizer_tensors(optimizer)
                optimizer = spam(model, **CYCLE)
                load_optimizer(optimizer, tensors, json.loads(json.dumps(plain)))
            spiky(model, seed)
            optimizer.step()
        results.append(model.copies())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ({"INTERVAL": "20"}, "--adamwspam-grace 20 must be below --adamwspam-interval 20"),
        ({"INTERVAL": "100"}, "--adamwspam-warmup 150 must be at most --adamwspam-interval 100"),
        ({"GRACE": "1"}, "--adamwspam-grace: 1 is out of range 2..1000000000"),
        ({"THETA": "0", "GRACE": "30"}, "--adamwspam-grace has no effect here: it needs"),
        ({"INTERVAL": "0", "WARMUP": "30"}, "--adamwspam-warmup has no effect here: it needs"),
        ({"INTERVAL": "0", "RESTART_BIAS": "y"}, "--adamwspam-restart-bias has no effect here"),
    ],
)
def test_parts_that_could_not_act_are_refused(own: dict[str, str], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        bound("adamwspam", **{f"{NAME}_{key}": value for key, value in own.items()})
    [message] = caught.value.messages
    assert message.startswith(complaint)
