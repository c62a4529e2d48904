"""Number formats, loss scaling, and refused steps that leave no trace in any optimizer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.options import Options
from gpt2.config.typed import PLUGIN_PACKAGES, QUALIFIED
from gpt2.machine import processor
from gpt2.optim.groups import parameter_groups
from gpt2.optim.precision import Precision, emulated, resolve_precision
from gpt2.training.loop import clip, gradient_norm

CPU = torch.device("cpu")
#: A loss; what is poisoned are the gradients.
FINITE = torch.tensor(1.0)
PACKAGE = PLUGIN_PACKAGES["OPTIMIZER"]
#: Those of libraries have the battery of tests/support/conformance.py.
BUILT_IN = [name for name in plugins.names(PACKAGE) if name != QUALIFIED["OPTIMIZER"][0]]
EVERY_OPTIMIZER = pytest.mark.parametrize("name", BUILT_IN)
FUSED = pytest.mark.parametrize("fused", [True, False])


@pytest.fixture
def small() -> nn.Module:
    """One parameter of every role."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4))


def optimizer_of(
    name: str, model: nn.Module, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> torch.optim.Optimizer:
    options = Options()
    options.give("OPTIMIZER", name, "--optimizer")
    plugin = plugins.load(PACKAGE, name)
    monkeypatch.setattr(plugin, "fused_where_possible", lambda _: fused, raising=False)
    built = plugin.build(parameter_groups(model, 0.01, 0.1), bind(options).optim.options)
    assert isinstance(built, torch.optim.Optimizer)
    if hasattr(built, "on_device"):  # the form for a GPU
        built.on_device = fused
    return built


def give_gradients(model: nn.Module, seed: int, poison: float | None = None) -> None:
    """Random gradients, one number of one of them replaced by `poison`."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    if poison is not None:
        model.get_parameter("1.weight").grad[2, 1] = poison


def step(
    precision: Precision, model: nn.Module, optimizer: torch.optim.Optimizer, largest: float = 1.0
) -> None:
    """One step as the training loop takes it."""
    precision.unscale(optimizer)
    norm = gradient_norm(list(model.parameters()))
    clip(list(model.parameters()), largest, norm)
    precision.step(optimizer, precision.check_step(FINITE, norm))
    optimizer.zero_grad(set_to_none=True)


def pieces(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nested state, tensors copied."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from pieces(part, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from pieces(part, f"{path}.{index}")
    else:
        yield path, value.detach().clone() if isinstance(value, Tensor) else value


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return dict(pieces({"weights": model.state_dict(), "optimizer": optimizer.state_dict()}))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        if isinstance(value, Tensor):
            assert torch.equal(found[path], value), path
        else:
            assert found[path] == value, path


@EVERY_OPTIMIZER
@FUSED
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("largest", [0.0, 1.0])
def test_a_refused_step_changes_nothing(
    name: str,
    fused: bool,
    poison: float,
    largest: float,
    small: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer, precision = optimizer_of(name, small, fused, monkeypatch), Precision("fp32", CPU)
    for seed in range(3):
        give_gradients(small, seed)
        step(precision, small, optimizer, largest)
    before = snapshot(small, optimizer)
    give_gradients(small, 3, poison)
    step(precision, small, optimizer, largest)
    assert_same(snapshot(small, optimizer), before)
    assert (int(precision.step_guard.skipped), int(precision.step_guard.in_a_row)) == (1, 1)
    give_gradients(small, 4)
    step(precision, small, optimizer, largest)
    after = snapshot(small, optimizer)
    moved = [path for path in before if path.startswith(".weights")]
    assert not any(torch.equal(after[path], before[path]) for path in moved)
    assert (int(precision.step_guard.skipped), int(precision.step_guard.in_a_row)) == (1, 0)


@EVERY_OPTIMIZER
@FUSED
def test_a_refused_step_changes_nothing_though_all_is_finite(
    name: str, fused: bool, small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spike, say."""
    optimizer, precision = optimizer_of(name, small, fused, monkeypatch), Precision("fp32", CPU)
    give_gradients(small, 0)
    step(precision, small, optimizer)
    before = snapshot(small, optimizer)
    give_gradients(small, 1)
    precision.step(optimizer, torch.tensor(True))
    assert_same(snapshot(small, optimizer), before)
    precision.step(optimizer, torch.tensor(False))
    assert not torch.equal(small.get_parameter("1.weight"), before[".weights.1.weight"])


@EVERY_OPTIMIZER
@FUSED
def test_refused_first_steps_are_as_if_they_had_not_been(
    name: str, fused: bool, small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {key: value.clone() for key, value in small.state_dict().items()}
    results = []
    for refused in (0, 2):
        small.load_state_dict(start)
        optimizer = optimizer_of(name, small, fused, monkeypatch)
        precision = Precision("fp32", CPU)
        for _ in range(refused):
            give_gradients(small, 9, math.nan)
            step(precision, small, optimizer)
        assert_same(dict(pieces(small.state_dict())), dict(pieces(start)))
        for seed in range(3):
            give_gradients(small, seed)
            step(precision, small, optimizer)
        results.append(snapshot(small, optimizer))
        assert int(precision.step_guard.skipped) == refused
    assert_same(results[1], results[0])


@EVERY_OPTIMIZER
@FUSED
def test_fp16_halves_its_scale_on_overflow_and_goes_on(
    name: str, fused: bool, small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, precision = optimizer_of(name, small, fused, monkeypatch), Precision("fp16", CPU)
    before = snapshot(small, optimizer)
    for scale in (65536.0, 32768.0):
        assert precision.scaler.get_scale() == scale
        loss = sum(parameter.sum() for parameter in small.parameters()) * 1e38
        precision.backward(loss)
        step(precision, small, optimizer)
    after = snapshot(small, optimizer)
    assert all(torch.equal(after[path], before[path]) for path in before if "weights" in path)
    assert precision.state()["scale"] == 16384.0
    assert (int(precision.step_guard.skipped), int(precision.step_guard.in_a_row)) == (2, 2)
    precision.backward(small.get_parameter("1.weight").sum())
    step(precision, small, optimizer)
    assert not torch.equal(small.get_parameter("1.weight"), before[".weights.1.weight"])
    assert precision.state()["scale"] == 16384.0
    assert (int(precision.step_guard.skipped), int(precision.step_guard.in_a_row)) == (2, 0)


@FUSED
def test_fp16_takes_the_scale_out_before_the_step(
    fused: bool, small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two backward passes under the scaler, one clipped step: the same as without a scaler."""
    start = {key: value.clone() for key, value in small.state_dict().items()}
    results, norms = [], []
    for name in ("fp32", "fp16"):
        small.load_state_dict(start)
        optimizer = optimizer_of("sgd", small, fused, monkeypatch)
        precision = Precision(name, CPU)
        for factor in (1.0, 2.0):
            loss = sum((factor * parameter * parameter).sum() for parameter in small.parameters())
            precision.backward(loss)
        precision.unscale(optimizer)
        norms.append(gradient_norm(list(small.parameters())))
        clip(list(small.parameters()), 1.0, norms[-1])
        precision.step(optimizer, precision.check_step(FINITE, norms[-1]))
        results.append({key: value.clone() for key, value in small.state_dict().items()})
    assert float(norms[0]) > 2.0
    torch.testing.assert_close(norms[1], norms[0])
    torch.testing.assert_close(results[1], results[0])


def test_state_makes_the_round_trip_through_json(
    small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = optimizer_of("adamw", small, True, monkeypatch)
    first = Precision("fp16", CPU)
    first.scaler.set_growth_interval(3)

    def go_on(precision: Precision, losses: list[float]) -> list[dict[str, float | int]]:
        seen = []
        for factor in losses:
            precision.backward(small.get_parameter("1.weight").sum() * factor)
            step(precision, small, optimizer)
            seen.append(precision.state())
        return seen

    go_on(first, [1.0, 1e38, 1.0, 1.0])
    saved = json.loads(json.dumps(first.state()))
    assert saved["scale"] == 32768.0
    assert saved["_growth_tracker"] == 2
    assert (saved["skipped"], saved["in_a_row"]) == (1, 0)
    second = Precision("fp16", CPU)
    second.load(saved)
    assert second.state() == first.state()
    rest = [1.0, 1e38, 1e38, 1.0]
    expected = go_on(first, rest)
    assert expected[0]["scale"] == 65536.0  # it grew in the third good step in a row
    assert expected[2]["in_a_row"] == 2
    assert go_on(second, rest) == expected
    # Into one that has already worked, too.
    third = Precision("fp16", CPU)
    go_on(third, [1e38, 1e38])
    third.load(saved)
    assert go_on(third, rest) == expected


def test_state_without_a_scaler_is_the_counters() -> None:
    precision = Precision("fp32", CPU)
    state = {"skipped": 5, "spiked": 0, "in_a_row": 2, "blamed": 3}
    precision.load(state)
    assert precision.state() == state
    assert precision.step_guard.skipped.dtype == precision.step_guard.in_a_row.dtype == torch.int64
    precision.load({"skipped": 4, "in_a_row": 1})  # of before the others were counted
    assert precision.state() == {"skipped": 4, "spiked": 0, "in_a_row": 1, "blamed": 0}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_autocast_computes_in_its_format(name: str, dtype: torch.dtype) -> None:
    matrix = torch.ones(4, 4)
    with Precision(name, CPU).autocast():
        assert (matrix @ matrix).dtype == dtype
    assert (matrix @ matrix).dtype == torch.float32


def test_a_precision_that_is_asked_for_is_taken() -> None:
    for device in ("cpu", "cuda", "mps"):
        for name in ("fp32", "bf16", "fp16"):
            assert resolve_precision(name, torch.device(device)) == name


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_is_what_the_device_does_well(
    native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("auto", torch.device("mps")) == "fp32"

    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", torch.device("cuda")) == chosen


@pytest.mark.parametrize(
    ("flags", "slow"), [("fpu avx2", True), ("avx2 avx512_bf16", False), ("asimd bf16 sve", False)]
)
def test_bf16_without_instructions_is_told(
    flags: str, slow: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    information = tmp_path / "cpuinfo"
    information.write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(processor, "_INFORMATION", information)
    assert emulated("bf16", CPU) is slow
    assert not emulated("fp32", CPU)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not slow)
    assert emulated("bf16", torch.device("cuda")) is slow
    assert not emulated("fp16", torch.device("cuda"))
