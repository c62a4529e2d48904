"""Optimizer state of every form: through real files, back to the bit and to its place in memory."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from gpt2.checkpoint import store
from gpt2.checkpoint.nested_tensors import flatten, unflatten
from gpt2.checkpoint.optimizer_state import (
    load_optimizer,
    load_random_state,
    optimizer_tensors,
    random_state,
)


class Hoarder(torch.optim.Optimizer):
    """An optimizer that keeps state in every form, and something beside it."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.1, "pairs": ((1, 2.5), (3, 4.5)), "format": torch.half})
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        self.count = saved["count"]

    def fill(self) -> None:
        self.count = 3
        self.state["total"] = 7
        for group in self.param_groups:
            group["norm"] = torch.tensor(2.5)
            group["nothing"] = None
            for parameter in group["params"]:
                self.state[parameter] = {
                    "plain": torch.randn(5),
                    "columns": torch.linalg.qr(torch.randn(6, 6))[0],
                    "pile": [torch.randn(3), None, (torch.ones(2, dtype=torch.int8), 0.1)],
                    "by_decay": {0.9: torch.zeros(2), 0.99: torch.ones(2)},
                    "half": torch.randn(4, dtype=torch.bfloat16),
                    "word": "polar",
                    "step": 4,
                }


def hoarder() -> Hoarder:
    names = ["a", "ab", "c"]
    parameters = [nn.Parameter(torch.zeros(2)) for _ in names]
    return Hoarder(
        [
            {"params": parameters[:2], "names": names[:2], "role": "matrix"},
            {"params": parameters[2:], "names": names[2:], "role": "vector"},
        ]
    )


def alike(left: Any, right: Any) -> bool:
    """Whether two values are equal in all: kind, bits, number format, order in memory."""
    if isinstance(left, Tensor):
        same_place = left.stride() == right.stride() and left.dtype == right.dtype
        return same_place and torch.equal(left, right)
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(alike, left, right))
    return bool(left == right)


@pytest.fixture
def reloaded(tmp_path: Path) -> tuple[Hoarder, Hoarder]:
    """A full optimizer, and a fresh one that loaded its state from a checkpoint on disk."""
    torch.manual_seed(0)
    full, fresh = hoarder(), hoarder()
    full.fill()
    tensors, plain = optimizer_tensors(full)
    store.save(tmp_path, store.Checkpoint(1, {}, tensors, {"optimizer": plain}))
    found = store.load_last(tmp_path, print)
    assert found is not None
    load_optimizer(fresh, dict(found.optim), found.state["optimizer"])
    return full, fresh


def test_state_of_every_form_comes_back(reloaded: tuple[Hoarder, Hoarder]) -> None:
    full, fresh = reloaded
    for group, other in zip(full.param_groups, fresh.param_groups, strict=True):
        own = {key: value for key, value in group.items() if key != "params"}
        assert alike(own, {key: value for key, value in other.items() if key != "params"})
        for parameter, copy in zip(group["params"], other["params"], strict=True):
            assert alike(full.state[parameter], fresh.state[copy])
    assert fresh.state["total"] == 7
    assert fresh.count == 3


def test_state_begins_where_memory_is_aligned(reloaded: tuple[Hoarder, Hoarder]) -> None:
    """Products round by where a tensor begins; in a file that may be any byte."""
    _, fresh = reloaded
    for group in fresh.param_groups:
        for parameter in group["params"]:
            assert fresh.state[parameter]["columns"].data_ptr() % 64 == 0
            assert fresh.state[parameter]["pile"][0].data_ptr() % 64 == 0


def test_what_no_checkpoint_can_hold_is_refused() -> None:
    optimizer = hoarder()
    optimizer.state[optimizer.param_groups[0]["params"][1]] = {"queue": {1, 2}}
    with pytest.raises(TypeError, match=r"cannot hold ab\.queue, a set"):
        optimizer_tensors(optimizer)


def test_state_of_an_unknown_parameter_is_refused() -> None:
    full = hoarder()
    full.fill()
    tensors, plain = optimizer_tensors(full)
    with pytest.raises(ValueError, match=r"unknown parameters: stranger\.plain"):
        load_optimizer(hoarder(), {**tensors, "stranger.plain": torch.zeros(1)}, plain)


def test_a_checkpoint_without_the_later_parts_is_read() -> None:
    """As they were written before an optimizer's own state and tuples were told apart."""
    parameters = [nn.Parameter(torch.zeros(2))]
    groups = [{"params": parameters, "names": ["a"], "role": "matrix"}]
    optimizer = torch.optim.AdamW(groups)
    old = {"state": {}, "groups": [{"lr": 0.5, "betas": [0.8, 0.9], "eps": 1e-8}]}
    state = {"a.exp_avg": torch.ones(2), "a.step": torch.tensor(3.0)}
    load_optimizer(optimizer, state, old)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert torch.equal(optimizer.state[parameters[0]]["exp_avg"], torch.ones(2))


def test_wrapped_state_comes_back_if_its_class_is_declared_safe() -> None:
    """Quantised state is a class around its codes; a file can name only what a library declared."""
    wrapped = TwoTensor(torch.randn(3), torch.arange(3.0))
    tensors: dict[str, Tensor] = {}
    rest = json.loads(json.dumps(flatten([wrapped, torch.Size([2, 3])], "a.codes", tensors)))
    assert sorted(tensors) == ["a.codes.0.a", "a.codes.0.b"]
    with pytest.raises(ValueError, match="TwoTensor is not a class that a loaded library"):
        unflatten(rest, dict(tensors))
    with torch.serialization.safe_globals([TwoTensor]):
        back, size = unflatten(rest, dict(tensors))
    assert isinstance(back, TwoTensor)
    assert torch.equal(back.a, wrapped.a)
    assert torch.equal(back.b, wrapped.b)
    assert size == torch.Size([2, 3])


@pytest.mark.parametrize(("saved", "current", "taken"), [(1, 3, 0), (4, 3, 3), (2, 3, None)])
def test_the_generator_of_the_current_device_alone_is_put_back(
    saved: int, current: int, taken: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 saved those of all devices it saw; how many are seen now decides nothing."""
    state = random_state()
    assert state["cuda"] == []
    states = [torch.full((8,), number, dtype=torch.uint8) for number in range(saved)]
    state["cuda"] = [base64.b64encode(s.numpy().tobytes()).decode() for s in states]
    put: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda found: put.append(int(found[0])))
    load_random_state(state)
    assert put == ([] if taken is None else [taken])
