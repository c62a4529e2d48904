"""Every pruning method speaks the protocol; the null pruner changes nothing."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.options import Options
from gpt2.config.typed import PLUGIN_PACKAGES
from gpt2.prune.methods import PruningPlugin
from gpt2.prune.pruner import Pruner, Sparsity

PACKAGE = PLUGIN_PACKAGES["PRUNING_METHOD"]
EVERY_METHOD = pytest.mark.parametrize("name", plugins.names(PACKAGE))


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4))


def built(name: str, model: nn.Module) -> Pruner:
    options = Options()
    options.give("PRUNING_METHOD", name, "--pruning-method")
    prune = bind(options).prune
    assert (prune is None) == (name == "none")
    plugin: PruningPlugin = plugins.load(PACKAGE, name)
    return plugin.build(model, prune.options if prune else None)


def verbs(protocol: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(function, eval_str=True)
        for name, function in vars(protocol).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }


def test_the_folder_and_the_menu_hold_the_same_names() -> None:
    assert plugins.names(PACKAGE) == sorted(Options().members("PRUNING_METHOD"))


@EVERY_METHOD
def test_every_method_speaks_the_protocol(name: str) -> None:
    pruner = built(name, model_of())
    wanted = verbs(Pruner)
    assert set(wanted) == {"observe", "apply", "sparsity", "state", "load"}
    for verb, signature in wanted.items():
        own = inspect.signature(getattr(type(pruner), verb), eval_str=True)
        assert own == signature, verb


def test_the_null_pruner_changes_nothing() -> None:
    model = model_of()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruner = built("none", model)
    for step in range(3):
        pruner.observe(step)
        pruner.apply(step)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.all(parameter.grad == 1.0)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert pruner.sparsity() == Sparsity(asked=0.0, reached=0.0)
    assert pruner.state() == {}
    pruner.load({})
    assert pruner.state() == {}
