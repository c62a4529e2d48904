"""Optimizers that work number by number: against torch's for-loop forms, and the papers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2.checkpoint.optimizer_state import load_optimizer, optimizer_tensors
from gpt2.config import plugins
from gpt2.optim.groups import parameter_groups
from gpt2.optim.precision import Precision
from tests.support.small import PACKAGE, Small, build, run

CPU = torch.device("cpu")
#: Option sets under which each is compared, with the arguments that mean the same to torch.
MOMENTS = {"betas": (0.9, 0.95), "eps": 1e-8}
LONG = {"betas": (0.9, 0.999), "eps": 1e-8}
ODD = {"betas": (0.0, 0.5), "eps": 0.1}


def odd(name: str) -> dict[str, str]:
    return {f"{name}_BETA1": "0", f"{name}_BETA2": "0.5", f"{name}_EPS": "0.1"}


AGAINST_TORCH: list[tuple[str, dict[str, str], Any, dict[str, Any]]] = [
    ("sgd", {}, torch.optim.SGD, {"momentum": 0.9}),
    ("sgd", {"SGD_MOMENTUM": "0"}, torch.optim.SGD, {"momentum": 0.0}),
    (
        "sgd",
        {"SGD_MOMENTUM": "0.8", "SGD_NESTEROV": "y"},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    ("adam", {}, torch.optim.Adam, MOMENTS),
    ("adam", odd("ADAM"), torch.optim.Adam, ODD),
    ("adamw", {}, torch.optim.AdamW, MOMENTS),
    ("adamw", odd("ADAMW"), torch.optim.AdamW, ODD),
    ("adamwadv", {}, torch.optim.AdamW, {**LONG, "amsgrad": True}),
    ("adamwadv", odd("ADAMWADV"), torch.optim.AdamW, {**ODD, "amsgrad": True}),
    ("adamwspam", {}, torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-6}),
    ("nadam", {}, torch.optim.NAdam, {**MOMENTS, "decoupled_weight_decay": True}),
    ("radam", {}, torch.optim.RAdam, {**LONG, "decoupled_weight_decay": True}),
    ("adamax", {}, torch.optim.Adamax, LONG),
    ("adagrad", {}, torch.optim.Adagrad, {}),
    ("rmsprop", {}, torch.optim.RMSprop, {}),
    ("adafactor", {}, torch.optim.Adafactor, {"eps": (1e-15, 1e-3)}),
]
FUSED = [row for row in AGAINST_TORCH if row[0] in ("sgd", "adam", "adamw", "adamwadv")]


def torchs(kind: Any, arguments: dict[str, Any], steps: int) -> dict[str, Tensor]:
    """Weights after torch's for-loop form."""
    model = Small()
    return run(kind(parameter_groups(model, 0.01, 0.1), foreach=False, **arguments), model, steps)


@pytest.mark.parametrize(("name", "given", "kind", "arguments"), FUSED)
def test_fused_is_torchs_loop_within_rounding(
    name: str, given: dict[str, str], kind: Any, arguments: dict[str, Any]
) -> None:
    model = Small()
    optimizer = build(name, model, rate=0.01, **given)
    assert optimizer.defaults["fused"]
    found, expected = run(optimizer, model, 20), torchs(kind, arguments, 20)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(("name", "given", "kind", "arguments"), AGAINST_TORCH)
def test_not_fused_is_torchs_loop_to_the_bit(
    name: str,
    given: dict[str, str],
    kind: Any,
    arguments: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin = plugins.load(PACKAGE, name)
    monkeypatch.setattr(plugin, "fused_where_possible", lambda _: False, raising=False)
    model = Small()
    optimizer = build(name, model, rate=0.01, **given)
    assert not optimizer.defaults.get("fused")
    found, expected = run(optimizer, model, 20), torchs(kind, arguments, 20)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


ON_DEVICE: list[tuple[str, dict[str, str]]] = [
    ("lion", {}),
    ("adafactor", {}),
    ("adafactor", {"ADAFACTOR_CLIP": "2.5", "ADAFACTOR_DECAY": "0.5"}),
    ("adamwspam", {}),
    *(
        (
            "adamwspam",
            {
                "ADAMWSPAM_THETA": "2",
                "ADAMWSPAM_INTERVAL": "7",
                "ADAMWSPAM_GRACE": "3",
                "ADAMWSPAM_WARMUP": "4",
                "ADAMWSPAM_RESTART_BIAS": restart,
            },
        )
        for restart in "ny"
    ),
]


@pytest.mark.parametrize(("name", "given"), ON_DEVICE)
def test_the_form_for_a_gpu_is_the_other_within_rounding(name: str, given: dict[str, str]) -> None:
    """Steps that are skipped among them; the state of each goes on in the other."""
    results = []
    for forms in ([False] * 3, [True] * 3, [False, True, False], [True, False, True]):
        model = Small()
        optimizer, precision = build(name, model, rate=0.01, **given), Precision("fp32", CPU)
        for part, on_device in enumerate(forms):
            if part:
                tensors, plain = optimizer_tensors(optimizer)
                tensors = {key: value.clone() for key, value in tensors.items()}
                optimizer = build(name, model, rate=0.01, **given)
                load_optimizer(optimizer, tensors, json.loads(json.dumps(plain)))
            optimizer.on_device = on_device  # type: ignore[attr-defined]
            for seed in range(8 * part, 8 * part + 8):
                model.give_gradients(seed)
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.grad.view(-1)[seed % 7 :: 7] *= 30.0
                    if seed % 5 == 2:
                        parameter.grad.view(-1)[0] = math.nan
                precision.step(optimizer, torch.tensor(seed % 5 == 2))
        results.append(model.copies())
    for found in results[1:]:
        for key, value in results[0].items():
            torch.testing.assert_close(found[key], value, atol=2e-6, rtol=1e-5)


RATE, DECAY = 0.02, 0.3
B1, B2, EPS = 0.8, 0.9, 0.01


def moments(gradients: list[float]) -> list[tuple[int, float, float, float]]:
    """(t, g, m, v) after each gradient."""
    m = v = 0.0
    found = []
    for t, g in enumerate(gradients, 1):
        m = B1 * m + (1.0 - B1) * g
        v = B2 * v + (1.0 - B2) * g * g
        found.append((t, g, m, v))
    return found


def adam(w: float, gradients: list[float], decay: float) -> float:
    """Kingma and Ba 2015, algorithm 1."""
    m = v = 0.0
    for t, gradient in enumerate(gradients, 1):
        g = gradient + decay * w
        m = B1 * m + (1.0 - B1) * g
        v = B2 * v + (1.0 - B2) * g * g
        w -= RATE * (m / (1.0 - B1**t)) / (math.sqrt(v / (1.0 - B2**t)) + EPS)
    return w


def adamw(w: float, gradients: list[float], decay: float) -> float:
    """Loshchilov and Hutter 2019, algorithm 2."""
    for t, _, m, v in moments(gradients):
        step = (m / (1.0 - B1**t)) / (math.sqrt(v / (1.0 - B2**t)) + EPS)
        w -= RATE * (step + decay * w)
    return w


def amsgrad(w: float, gradients: list[float], decay: float) -> float:
    """Reddi et al. 2018, algorithm 2, with Adam's bias correction as torch has it."""
    largest = 0.0
    for t, _, m, v in moments(gradients):
        largest = max(largest, v)
        step = (m / (1.0 - B1**t)) / (math.sqrt(largest / (1.0 - B2**t)) + EPS)
        w -= RATE * (step + decay * w)
    return w


def nadam(w: float, gradients: list[float], decay: float) -> float:
    """Dozat 2016, algorithm 2, with its momentum schedule (decay 0.05 here)."""
    product = 1.0
    for t, g, m, v in moments(gradients):
        now = B1 * (1.0 - 0.5 * 0.96 ** (0.05 * t))
        following = B1 * (1.0 - 0.5 * 0.96 ** (0.05 * (t + 1)))
        product *= now
        mean = (1.0 - now) * g / (1.0 - product) + following * m / (1.0 - product * following)
        w -= RATE * decay * w
        w -= RATE * mean / (math.sqrt(v / (1.0 - B2**t)) + EPS)
    return w


def radam(w: float, gradients: list[float], decay: float) -> float:
    """Liu et al. 2020, algorithm 2, the threshold 5 and epsilon as in torch."""
    most = 2.0 / (1.0 - B2) - 1.0
    rectified = []
    for t, _, m, v in moments(gradients):
        w -= RATE * decay * w
        length = most - 2.0 * t * B2**t / (1.0 - B2**t)
        rectified.append(length > 5.0)
        step = m / (1.0 - B1**t)
        if length > 5.0:
            step *= math.sqrt(
                (length - 4.0) * (length - 2.0) * most / ((most - 4.0) * (most - 2.0) * length)
            )
            step *= math.sqrt(1.0 - B2**t) / (math.sqrt(v) + EPS)
        w -= RATE * step
    assert set(rectified) == {False, True}
    return w


def adamax(w: float, gradients: list[float], decay: float) -> float:
    """Kingma and Ba 2015, algorithm 2, epsilon as in torch."""
    m = u = 0.0
    for t, gradient in enumerate(gradients, 1):
        g = gradient + decay * w
        m = B1 * m + (1.0 - B1) * g
        u = max(B2 * u, abs(g) + EPS)
        w -= RATE / (1.0 - B1**t) * m / u
    return w


def adagrad(w: float, gradients: list[float], decay: float) -> float:
    """Duchi et al. 2011, the diagonal form."""
    total = 0.0
    for gradient in gradients:
        g = gradient + decay * w
        total += g * g
        w -= RATE * g / (math.sqrt(total) + EPS)
    return w


def rmsprop(w: float, gradients: list[float], decay: float) -> float:
    """Tieleman and Hinton 2012, slide 29, with a momentum of 0.7."""
    v = velocity = 0.0
    for gradient in gradients:
        g = gradient + decay * w
        v = 0.9 * v + 0.1 * g * g
        velocity = 0.7 * velocity + g / (math.sqrt(v) + EPS)
        w -= RATE * velocity
    return w


def lion(w: float, gradients: list[float], decay: float) -> float:
    """Chen et al. 2023, algorithm 2."""
    m = 0.0
    for g in gradients:
        c = B1 * m + (1.0 - B1) * g
        w -= RATE * (math.copysign(1.0, c) + decay * w)
        m = B2 * m + (1.0 - B2) * g
    return w


def sgd(w: float, gradients: list[float], decay: float, momentum: float, nesterov: bool) -> float:
    """Sutskever et al. 2013, (1)-(4), with the rate outside the velocity as in torch."""
    velocity = 0.0
    for gradient in gradients:
        g = gradient + decay * w
        velocity = momentum * velocity + g
        w -= RATE * (g + momentum * velocity if nesterov else velocity)
    return w


def both(name: str, *more: str) -> dict[str, str]:
    """The betas and the epsilon of the formulas, as options."""
    values = {"BETA1": str(B1), "BETA2": str(B2), "EPS": str(EPS)}
    return {f"{name}_{key}": value for key, value in values.items() if key not in more}


@pytest.mark.parametrize(
    ("name", "given", "formula"),
    [
        ("adam", both("ADAM"), adam),
        ("adamw", both("ADAMW"), adamw),
        ("adamwadv", both("ADAMWADV"), amsgrad),
        ("nadam", {**both("NADAM"), "NADAM_MOMENTUM_DECAY": "0.05"}, nadam),
        ("radam", both("RADAM"), radam),
        ("adamax", both("ADAMAX"), adamax),
        ("adagrad", {"ADAGRAD_EPS": str(EPS)}, adagrad),
        (
            "rmsprop",
            {"RMSPROP_ALPHA": "0.9", "RMSPROP_MOMENTUM": "0.7", "RMSPROP_EPS": str(EPS)},
            rmsprop,
        ),
        ("lion", both("LION", "EPS"), lion),
        ("sgd", {"SGD_MOMENTUM": "0.7"}, lambda w, g, decay: sgd(w, g, decay, 0.7, False)),
        ("sgd", {"SGD_MOMENTUM": "0"}, lambda w, g, decay: sgd(w, g, decay, 0.0, False)),
        (
            "sgd",
            {"SGD_MOMENTUM": "0.7", "SGD_NESTEROV": "y"},
            lambda w, g, decay: sgd(w, g, decay, 0.7, True),
        ),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_papers_formula_number_by_number(
    name: str, given: dict[str, str], formula: Any, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = plugins.load(PACKAGE, name)
    if not fused or hasattr(plugin, "fused_where_possible"):
        monkeypatch.setattr(plugin, "fused_where_possible", lambda _: fused, raising=False)
    model = Small(torch.float64)
    start, steps = model.copies(), 8
    gradients: list[dict[str, Tensor]] = []
    for seed in range(steps):
        model.give_gradients(seed)
        gradients.append(
            {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        )
    found = run(build(name, model, rate=RATE, decay=DECAY, **given), model, steps)
    for key, after in found.items():
        decay = DECAY if after.ndim >= 2 else 0.0
        for place in range(0, after.numel(), 5):
            own = [float(step[key].flatten()[place]) for step in gradients]
            wanted = formula(float(start[key].flatten()[place]), own, decay)
            # torch keeps the product of NAdam's momenta in fp32 whatever the weights are in.
            exact = 1e-7 if name == "nadam" else 1e-12
            assert float(after.flatten()[place]) == pytest.approx(wanted, rel=exact, abs=exact)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    # Gradients of 1e-5 are those of a clipped model of ten billion weights.
    [(torch.float64, 1.0), (torch.float32, 1.0), (torch.float32, 1e-3), (torch.float32, 1e-5)],
)
def test_adafactor_is_its_algorithm(dtype: torch.dtype, scale: float, on_device: bool) -> None:
    """Shazeer and Stern 2018, algorithms 4 and 5, in Python's own numbers."""
    decay, clip, least = 0.7, 1.5, 0.02
    given = {"ADAFACTOR_DECAY": "0.7", "ADAFACTOR_CLIP": "1.5", "ADAFACTOR_EPS": "0.02"}
    model = Small(dtype)
    weights = {key: value.tolist() for key, value in model.copies().items()}
    optimizer = build("adafactor", model, rate=RATE, decay=DECAY, **given)
    optimizer.on_device = on_device  # type: ignore[attr-defined]
    rows: dict[str, list[float]] = {}
    columns: dict[str, list[float]] = {}
    for t in range(1, 7):
        model.give_gradients(t)
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(scale)
            matrix = parameter.ndim == 2
            g = parameter.grad.tolist() if matrix else [parameter.grad.tolist()]
            w = weights[key] if matrix else [weights[key]]
            high, wide = len(g), len(g[0])
            new = t**-decay
            size = math.sqrt(sum(x * x for row in w for x in row) / (high * wide))
            if matrix:
                r = [sum(x * x for x in row) / wide for row in g]
                c = [sum(row[j] ** 2 for row in g) / high for j in range(wide)]
                r = [new * x + (1 - new) * y for x, y in zip(r, rows.get(key, r), strict=True)]
                c = [new * x + (1 - new) * y for x, y in zip(c, columns.get(key, c), strict=True)]
                rows[key], columns[key] = r, c
                v = [[x * y / (sum(r) / high) for y in c] for x in r]
            else:
                v = [[x * x for x in g[0]]]
                old = columns.get(key, v[0])
                v = [[new * x + (1 - new) * y for x, y in zip(v[0], old, strict=True)]]
                columns[key] = v[0]
            u = [[g[i][j] / math.sqrt(v[i][j]) for j in range(wide)] for i in range(high)]
            rms = math.sqrt(sum(x * x for row in u for x in row) / (high * wide))
            alpha = max(least, size) * min(RATE, 1 / math.sqrt(t)) / max(1.0, rms / clip)
            shrink = 1.0 - RATE * (DECAY if matrix else 0.0)
            w = [[w[i][j] * shrink - alpha * u[i][j] for j in range(wide)] for i in range(high)]
            weights[key] = w if matrix else w[0]
        optimizer.step()
    for key, value in model.copies().items():
        torch.testing.assert_close(value, torch.tensor(weights[key], dtype=dtype))


def test_a_run_begun_with_another_epsilon_keeps_it() -> None:
    """Adafactor's was torch's default in version 1, whose runs end as they would have there."""
    began = build("adafactor", Small())
    for group in began.param_groups:
        group["eps"] = (None, 1e-3)
    tensors, plain = optimizer_tensors(began)
    resumed = build("adafactor", Small())
    load_optimizer(resumed, tensors, json.loads(json.dumps(plain)))
    assert {group["eps"] for group in resumed.param_groups} == {(None, 1e-3)}
