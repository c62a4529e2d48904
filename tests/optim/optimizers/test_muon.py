"""Muon: against torch's, against the singular value decomposition, and its parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2.config import plugins
from gpt2.config.errors import UserError
from gpt2.optim.groups import parameter_groups
from gpt2.optim.schedule import Schedule
from tests.support.small import PACKAGE, Small, bound

muon: Any = plugins.load(PACKAGE, "muon")
SHAPES = ((8, 8), (24, 8), (8, 24), (16, 4))


class Matrices(Small):
    """The small model with more matrices: square, tall and wide, and two of one shape."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dtype)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(8, 24, dtype=dtype)})
        self.more = nn.ModuleList(nn.Linear(n, m, dtype=dtype) for m, n in (*SHAPES, *SHAPES))


def build(
    model: nn.Module, rate: float = 0.02, decay: float = 0.1, **own: object
) -> torch.optim.Optimizer:
    given = {f"MUON_{key.upper()}": str(value) for key, value in own.items()}
    optim = bound("muon", **given)
    built = muon.build(parameter_groups(model, rate, decay), optim.options)
    assert isinstance(built, torch.optim.Optimizer)
    return built


def moved(optimizer: torch.optim.Optimizer, model: Small, steps: int = 6) -> dict[str, Tensor]:
    """How far each parameter is from its start after `steps` steps with drawn gradients."""
    start = model.copies()
    for seed in range(steps):
        model.give_gradients(seed)
        optimizer.step()
    return {key: after - start[key] for key, after in model.copies().items()}


def is_matrix(name: str, value: Tensor) -> bool:
    return value.ndim == 2 and "embedding" not in name


@pytest.mark.parametrize(
    ("own", "arguments"),
    [
        ({}, {}),
        ({"momentum": 0.7, "nesterov": "n"}, {"momentum": 0.7, "nesterov": False}),
        ({"ns_steps": 3}, {"ns_steps": 3}),
        ({"adjust": "match-rms-adamw"}, {"adjust_lr_fn": "match_rms_adamw"}),
    ],
)
def test_matrices_move_as_by_torchs_within_bf16(
    own: dict[str, object], arguments: dict[str, Any]
) -> None:
    model, other = Matrices(), Matrices()
    found = moved(build(model, split_qkv="n", **own), model)
    groups = [g for g in parameter_groups(other, 0.02, 0.1) if g["role"] == "matrix"]
    expected = moved(torch.optim.Muon(groups, lr=0.02, weight_decay=0.1, **arguments), other)
    matrices = [key for key, value in found.items() if is_matrix(key, value)]
    assert len(matrices) == 10
    for key in matrices:
        off = torch.linalg.norm(found[key] - expected[key]) / torch.linalg.norm(expected[key])
        assert off < 0.03, key  # torch's works in bf16, of 8 bits


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("own", "rate", "arguments"),
    [
        ({}, 0.004, {"betas": (0.9, 0.95), "eps": 1e-8}),
        (
            {"adamw_lr": 0.01, "adamw_beta1": 0.5, "adamw_beta2": 0.6, "adamw_eps": 0.1},
            0.01,
            {"betas": (0.5, 0.6), "eps": 0.1},
        ),
    ],
)
def test_the_rest_moves_as_by_torchs_adamw_to_the_bit(
    own: dict[str, object],
    rate: float,
    arguments: dict[str, Any],
    fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(muon, "fused_where_possible", lambda _: fused)
    model, other = Matrices(), Matrices()
    found = moved(build(model, **own), model)
    groups = [g for g in parameter_groups(other, rate, 0.1) if g["role"] != "matrix"]
    expected = moved(torch.optim.AdamW(groups, fused=fused, foreach=False, **arguments), other)
    rest = [key for key, value in found.items() if not is_matrix(key, value)]
    assert len(rest) > 10
    for key in rest:
        assert torch.equal(found[key], expected[key]), key


def by_decomposition(matrix: Tensor, steps: int) -> Tensor:
    """The same singular vectors, with the polynomial applied to the singular values themselves."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    x = values / values.square().sum().sqrt()
    for _ in range(steps):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return left @ torch.diag(x) @ right


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match-rms-adamw"])
def test_the_update_is_that_of_the_paper(adjust: str, split: bool) -> None:
    model = Matrices(torch.float64)
    start = {key: v for key, v in model.copies().items() if is_matrix(key, v)}
    momentum = {key: torch.zeros_like(value) for key, value in start.items()}
    wanted = {key: value.clone() for key, value in start.items()}
    optimizer = build(model, adjust=adjust, split_qkv="y" if split else "n")
    for seed in range(4):
        model.give_gradients(seed)
        for key, weight in wanted.items():
            gradient = model.get_parameter(key).grad
            assert gradient is not None
            momentum[key] = 0.95 * momentum[key] + 0.05 * gradient
            direction = 0.95 * momentum[key] + 0.05 * gradient
            for part in range(3 if split and "c_attn" in key else 1):
                rows = slice(8 * part, 8 * part + 8) if split and "c_attn" in key else slice(None)
                high, wide = direction[rows].shape
                factor = (
                    math.sqrt(max(1, high / wide))
                    if adjust == "original"
                    else 0.2 * math.sqrt(max(high, wide))
                )
                update = by_decomposition(direction[rows], 5)
                weight[rows] = weight[rows] * (1 - 0.02 * 0.1) - 0.02 * factor * update
        optimizer.step()
    for key, value in wanted.items():
        torch.testing.assert_close(model.get_parameter(key).detach(), value)


@pytest.mark.parametrize("shape", [(256, 64), (64, 256), (3, 96, 24)])
def test_singular_values_end_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    batch = torch.randn(shape) * 1e-3
    batch = batch if batch.ndim == 3 else batch[None]
    values = torch.linalg.svdvals(muon.orthogonalised(batch, 5))
    assert 0.6 < float(values.min()) < float(values.max()) < 1.25


@pytest.mark.parametrize("steps", [1, 3, 5, 12])
@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 32)])
def test_tiny_singular_values_are_raised_within_fp32(shape: tuple[int, int], steps: int) -> None:
    torch.manual_seed(1)
    left, _, right = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    values = torch.tensor([1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 0.0, 0.0], dtype=torch.float64)
    matrix = left @ torch.diag(values) @ right
    found = muon.orthogonalised(matrix[None].float(), steps)[0].double()
    if steps <= 5:
        torch.testing.assert_close(found, by_decomposition(matrix, steps), rtol=0.0, atol=1e-3)
    # Beyond, the polynomial does not settle: it keeps large values near 1 and lifts small ones.
    assert float(torch.linalg.svdvals(found).max()) < 1.25


def test_nothing_comes_of_nothing() -> None:
    assert torch.equal(muon.orthogonalised(torch.zeros(2, 3, 4), 5), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("most", [1, 500])
def test_one_at_a_time_is_the_same(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = Matrices(), Matrices()
    together = moved(build(model), model)
    monkeypatch.setattr(muon, "AT_ONCE", most)
    apart = moved(build(other), other)
    for key, value in together.items():
        torch.testing.assert_close(apart[key], value, rtol=1e-5, atol=1e-6)


def test_both_rates_follow_the_schedule() -> None:
    model = Small()
    optimizer = build(model, rate=0.02)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    assert Schedule("linear", 0.0, 0, 100).apply(optimizer, 1, 0.75) == pytest.approx(0.005)
    rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"matrix": 0.005, "embedding": 0.001, "vector": 0.001})


def test_its_state_is_one_number_for_a_matrix_and_adamws_for_the_rest() -> None:
    model = Small()
    optimizer = build(model)
    moved(optimizer, model, 1)
    for key, parameter in model.named_parameters():
        state = set(optimizer.state[parameter])
        adamws = {"step", "exp_avg", "exp_avg_sq"}
        assert state == ({"momentum_buffer"} if is_matrix(key, parameter) else adamws)


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ({"MUON_MOMENTUM": "1"}, "--muon-momentum: 1 is outside [0, 1)"),
        ({"MUON_NS_STEPS": "0"}, "--muon-ns-steps: 0 is out of range 1..20"),
        ({"MUON_ADAMW_LR": "-1"}, "--muon-adamw-lr: -1 is outside [0, inf)"),
        ({"MUON_ADJUST": "origin"}, "--muon-adjust 'origin' is unknown; did you mean original?"),
    ],
)
def test_wrong_options_are_refused(own: dict[str, str], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        bound("muon", **own)
    [message] = caught.value.messages
    assert message.startswith(complaint)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_works_in_bf16_and_agrees_with_the_cpu() -> None:
    torch.manual_seed(2)
    batch = torch.randn(3, 96, 24)
    found = muon.orthogonalised(batch.cuda(), 5).cpu()
    expected = muon.orthogonalised(batch, 5)
    assert float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected)) < 0.03
