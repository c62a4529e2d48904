"""Moments in bf16: the optimizer they stand for within their noise, and all that a run asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2.checkpoint.store import load_last
from gpt2.config import plugins
from gpt2.config.errors import Exit, UserError
from gpt2.optim import adam_bf16, stochastic_rounding
from gpt2.optim.adam_bf16 import MOMENTS
from gpt2.optim.groups import parameter_groups
from gpt2.optim.precision import Precision
from tests.support import conformance, tiny
from tests.support.conformance import CHECKS, Subject
from tests.support.small import PACKAGE, Small, bound, build, run

BF16 = {"OPTIMIZER_STATE_PRECISION": "bf16"}
FLAGS = ("--optimizer-state-precision", "bf16")
TORCHS: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("name", TORCHS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(name: str, check: Callable[[Subject, Path], None], tmp_path: Path) -> None:
    check(Subject(lambda groups: _built(name, groups)), tmp_path)


@pytest.mark.parametrize(("name", "kind"), [("adam", "L2"), ("adamw", "decoupled")])
def test_decay_is_the_optimizers(name: str, kind: str) -> None:
    subject = Subject(lambda groups: _built(name, groups))
    assert conformance.kind_of_decay(subject, torch.float32) == kind


def _built(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    optimizer = plugins.load(PACKAGE, name).build(groups, bound(name, **BF16).options)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


@pytest.mark.parametrize("name", TORCHS)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("at_once", [10**6, 50])
def test_it_is_torchs_loop_within_the_noise(
    name: str, fused: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step is the same; 100 more end within 2 % of the way from there."""
    monkeypatch.setattr(adam_bf16, "fused_where_possible", lambda _: fused)
    monkeypatch.setattr(adam_bf16, "AT_ONCE", at_once)  # parameters in pieces, and together
    ours, theirs = Small(), Small()
    start = ours.copies()
    optimizer = build(name, ours, rate=0.01, **BF16)
    assert optimizer.defaults["fused"] is fused
    groups = parameter_groups(theirs, 0.01, 0.1)
    reference = TORCHS[name](groups, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    expected = run(reference, theirs, 1)
    for key, value in run(optimizer, ours, 1).items():
        torch.testing.assert_close(value, expected[key], atol=1e-7, rtol=1e-6)
    expected = run(reference, theirs, 100)
    for key, value in run(optimizer, ours, 100).items():
        way = (expected[key] - start[key]).norm()
        assert 0.0 < (value - expected[key]).norm() < 0.02 * way, key
    for parameter in ours.parameters():
        assert float(optimizer.state[parameter]["step"]) == 101.0


def test_what_is_kept_is_half() -> None:
    model = Small()
    optimizer = build("adamw", model, **BF16)
    run(optimizer, model, 1)
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        assert {key: state[key].dtype for key in MOMENTS} == dict.fromkeys(MOMENTS, torch.bfloat16)
        assert state.keys() == {"step", *MOMENTS}


@pytest.mark.parametrize("at_once", [10**6, 50])
def test_compiled_it_is_the_same_to_the_bit(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is skipped among them; test_stochastic_rounding.py compiles the kernel itself."""
    monkeypatch.setattr(adam_bf16, "AT_ONCE", at_once)
    formula = stochastic_rounding.moments_by_formula
    calls: list[int] = []

    def counted(wide: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(wide.size(1))
        return formula(wide, start)

    monkeypatch.setattr(stochastic_rounding, "_compiled", lambda: counted)
    results = []
    for compiled in (False, True):
        model = Small()
        optimizer = build("adamw", model, rate=0.01, **BF16)
        assert isinstance(optimizer, adam_bf16.Bf16StateAdam)
        if compiled:
            optimizer.compile()
        assert optimizer.compiled is compiled
        run(optimizer, model, 3)
        model.give_gradients(3)
        Precision("fp32", torch.device("cpu")).step(optimizer, torch.tensor(True))
        run(optimizer, model, 2)
        assert bool(calls) is compiled
        results.append((model.copies(), optimizer.state))
    (weights, state), (others, other_state) = results
    assert all(torch.equal(others[key], value) for key, value in weights.items())
    for one, other in zip(state.values(), other_state.values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("step", *MOMENTS))


def test_a_slow_second_moment_falls() -> None:
    """With beta2 0.999 and no more gradients; rounded to the nearest it would stay for ever."""
    steps, kept = 300, 0.999**300
    parameter = torch.nn.Parameter(torch.zeros(4096))
    group = {"params": [parameter], "names": ["w"], "role": "matrix"}
    optimizer = adam_bf16.Bf16StateAdam([group], (0.9, 0.999), 1e-8, decoupled=True)
    parameter.grad = torch.linspace(1.0, 2.0, 4096)
    optimizer.step()
    first = optimizer.state[parameter]["exp_avg_sq"].float()
    parameter.grad = torch.zeros(4096)
    for _ in range(steps):
        optimizer.step()
    last = optimizer.state[parameter]["exp_avg_sq"].float()
    assert float(last.sum() / first.sum()) == pytest.approx(kept, rel=0.002)
    assert float((last / first - kept).abs().max()) < 0.3 * kept
    nearest = first.bfloat16()
    for _ in range(steps):
        nearest = (nearest.float() * 0.999).bfloat16()
    assert torch.equal(nearest.float(), first)


@pytest.mark.slow
@pytest.mark.parametrize("base", TORCHS)
def test_a_pruned_run_goes_on_to_the_same_bits(base: str, tmp_path: Path) -> None:
    """Under pruning by state; pruned weights hold no moments."""
    data = tiny.make_data(tmp_path / "data")
    more = ("--max-steps", "6", "--checkpoint-interval", "1", "--optimizer", "adamwprune")
    more += ("--adamwprune-base", base, *FLAGS)
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    run = tmp_path / "run"
    stopped = tiny.train_process(data, run, *more, fault="checkpoint.rename:kill:4")
    assert stopped.returncode == -9
    assert tiny.train(data, run, *more) == Exit.OK
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(tmp_path / "whole")
    found = load_last(run / "checkpoints", print)
    assert found is not None
    weight = found.model["transformer.h.0.mlp.c_fc.weight"]
    for key in MOMENTS:
        moment = found.optim[f"transformer.h.0.mlp.c_fc.weight.{key}"]
        assert moment.dtype == torch.bfloat16
        assert 0.4 < float((weight == 0.0).float().mean()) < 1.0
        assert not moment[weight == 0.0].any()


def test_others_refuse_it(tmp_path: Path) -> None:
    data = tiny.make_data(tmp_path / "data")
    for name in ("sgd", "adamwadv", "muon"):
        with pytest.raises(UserError, match=r"--optimizer-state-precision has no effect here"):
            tiny.train(data, tmp_path / "run", "--max-steps", "1", "--optimizer", name, *FLAGS)
