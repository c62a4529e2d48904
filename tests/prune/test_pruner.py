"""Every pruning method in the folder: a battery over all of them, on a small GPT-2."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import nn

from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.config.typed import PLUGIN_PACKAGES, PruneConfig
from gpt2.model.gpt import GPT
from gpt2.model.matrices import matrices_of
from gpt2.optim.groups import parameter_groups
from gpt2.prune.methods import PruningPlugin
from gpt2.prune.pruner import Pruner, Sparsity
from gpt2.prune.schedule import SparsitySchedule
from tests.support.pruned import give_gradients, setting_of, small_gpt

PACKAGE = PLUGIN_PACKAGES["PRUNING_METHOD"]
EVERY_METHOD = pytest.mark.parametrize("name", plugins.names(PACKAGE))
REAL = [name for name in plugins.names(PACKAGE) if name != "none"]
EVERY_REAL_METHOD = pytest.mark.parametrize("name", REAL)
EVERY_OPTIMIZER = pytest.mark.parametrize(
    "optimizer", [n for n in plugins.names(PLUGIN_PACKAGES["OPTIMIZER"]) if n != "library"]
)
SPARSE_FROM_START = ("rigl", "set", "static")
STEPS = 12


def bound(name: str, **given: str) -> PruneConfig | None:
    options = Options()
    options.give("PRUNING_METHOD", name, "--pruning-method")
    for symbol, value in given.items():
        options.give(symbol, value, "--" + symbol.lower().replace("_", "-"))
    return bind(options).prune


def built(name: str, model: GPT, optimizer: Any = None, **changes: Any) -> Pruner:
    prune = bound(name)
    assert (prune is None) == (name == "none")
    if prune is not None:
        changes = {"pattern": prune.sparsity_pattern} | changes
    plugin: PruningPlugin = plugins.load(PACKAGE, name)
    setting = setting_of(model, optimizer, **changes)
    return plugin.build(setting, prune.options if prune else None)


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    options = Options()
    options.give("OPTIMIZER", name, "--optimizer")
    optim = bind(options).optim
    groups = parameter_groups(model, min(optim.learning_rate, 0.01), 0.1)
    made: torch.optim.Optimizer = plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], name).build(
        groups, optim.options
    )
    return made


def one_step(pruner: Pruner, model: nn.Module, optimizer: Any, step: int) -> None:
    """One step as the loop takes it, with gradients drawn for `step`."""
    give_gradients(model, step)
    pruner.mask_gradients(step, step / STEPS)
    pruner.observe(torch.tensor(False))
    optimizer.step()
    optimizer.zero_grad()
    pruner.apply(step + 1, (step + 1) / STEPS)


def zeros(model: GPT) -> int:
    return sum(int((weight == 0.0).sum()) for weight in model.prunable("blocks").values())


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
    pruner = built(name, small_gpt())
    for verb, signature in verbs(Pruner).items():
        own = inspect.signature(getattr(type(pruner), verb), eval_str=True)
        assert own == signature, verb


def test_the_null_pruner_changes_nothing() -> None:
    model = small_gpt()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruner = built("none", model)
    for step in range(3):
        pruner.mask_gradients(step, step / 3)
        pruner.observe(torch.tensor(False))
        pruner.apply(step + 1, (step + 1) / 3)
    pruner.verify()
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


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.0, 0.333, 0.5, 0.9, 0.999])
@EVERY_REAL_METHOD
def test_the_asked_number_is_pruned_exactly_and_stays_zero(name: str, target: float) -> None:
    model = small_gpt()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 0.1))
    prune = bound(name)
    assert prune is not None
    end = prune.pruning_start if prune.pruning_end is None else prune.pruning_end
    kind = prune.pruning_schedule or "step"
    if name in SPARSE_FROM_START:
        kind = "linear"
    ramp = SparsitySchedule(kind, prune.pruning_start, end, target, None)
    pruner = built(name, model, optimizer, schedule=ramp)
    weights = model.prunable("blocks")
    total = sum(weight.numel() for weight in weights.values())
    gone: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        one_step(pruner, model, optimizer, step)
        found = pruner.sparsity()
        due = target if name in SPARSE_FROM_START else ramp.sparsity((step + 1) / STEPS)
        assert found.reached == round(due * total) / total
        assert zeros(model) == round(due * total)
        if name not in SPARSE_FROM_START:  # pruning is final
            for key, weight in weights.items():
                assert torch.all(weight[gone.get(key, torch.zeros_like(weight, dtype=bool))] == 0)
                gone[key] = weight == 0.0
    pruner.verify()
    assert found.final
    assert found.asked == target
    assert found.whole == pytest.approx(round(target * total) / model.parameter_count())
    for key, weight in weights.items():
        for matrix in matrices_of(key, weight.shape):
            share = float((weight[matrix.rows] == 0.0).float().mean())
            assert found.layers[matrix.name] == pytest.approx(share)
        for value in optimizer.state[weight].values():
            if value.shape == weight.shape:
                assert torch.all(value[weight == 0.0] == 0.0)
    for key, parameter in model.named_parameters():
        if key not in weights and parameter.ndim >= 2:
            assert torch.all(parameter != 0.0), key


@EVERY_OPTIMIZER
def test_pruned_weights_and_their_state_stay_zero_under_every_optimizer(optimizer: str) -> None:
    model = small_gpt()
    chosen = optimizer_of(optimizer, model)
    pruner = built(
        "magnitude", model, chosen, schedule=SparsitySchedule("linear", 0.1, 0.4, 0.7, 1)
    )
    weights = model.prunable("blocks")
    total = sum(weight.numel() for weight in weights.values())
    moved = {key: weight.detach().clone() for key, weight in weights.items()}
    for step in range(STEPS):
        one_step(pruner, model, chosen, step)
        counted = sum(int(bits.sum()) for bits in map(_pruned_of(pruner), weights))
        assert counted == round(pruner.sparsity().reached * total)
        for key, weight in weights.items():
            pruned = _pruned_of(pruner)(key)
            assert torch.all(weight[pruned] == 0.0)
            for name, value in chosen.state[weight].items():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    assert torch.all(value[pruned] == 0.0), name
    pruner.verify()
    for key, weight in weights.items():
        live = ~_pruned_of(pruner)(key)
        assert torch.all(weight[live] != moved[key][live])  # and the others do train


def _pruned_of(pruner: Any) -> Any:
    return pruner.masks.pruned


@EVERY_REAL_METHOD
def test_state_round_trip(name: str) -> None:
    results = []
    for interrupted in (None, 2, 7, 11):
        model = small_gpt()
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 0.1))
        ramp = SparsitySchedule(
            "cubic" if name not in ("wanda", "sparsegpt") else "step", 0.2, 0.8, 0.6, 3
        )
        pruner = built(name, model, optimizer, schedule=ramp)
        for step in range(STEPS):
            if step == interrupted:
                saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), pruner.state()))
                pruner = built(name, model, optimizer, schedule=ramp)
                model.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
                pruner.load(saved[2])
            one_step(pruner, model, optimizer, step)
        results.append((model.state_dict(), pruner.state()))
    for weights, state in results[1:]:
        assert all(torch.equal(weights[key], value) for key, value in results[0][0].items())
        assert state.keys() == results[0][1].keys()
        assert all(torch.equal(state[key], value) for key, value in results[0][1].items())


def test_masks_that_contradict_the_weights_are_refused() -> None:
    model = small_gpt()
    pruner = built("magnitude", model)
    pruner.apply(1, 0.5)
    state = pruner.state()
    name = next(iter(model.prunable("blocks")))
    state["mask." + name][0] ^= 255
    with pytest.raises(UserError, match=f"contradicts itself: weights of {name}") as caught:
        built("magnitude", model).load(state)
    assert caught.value.code == Exit.CHECKPOINT
    state["mask." + name] = torch.zeros(3, dtype=torch.uint8)
    with pytest.raises(UserError, match="does not fit the model"):
        built("magnitude", model).load(state)


def test_another_sparsity_than_asked_is_no_result() -> None:
    model = small_gpt()
    pruner = built("magnitude", model, schedule=SparsitySchedule("step", 0.9, 0.9, 0.5, None))
    pruner.apply(1, 0.5)
    with pytest.raises(
        UserError, match="0 weights are pruned at the end of the run, not the"
    ) as it:
        pruner.verify()
    assert it.value.code == Exit.BUG
    pruner.apply(2, 0.95)
    pruner.verify()
    weight = next(iter(model.prunable("blocks").values()))
    with torch.no_grad():
        weight.fill_(1.0)
    with pytest.raises(UserError, match="are not zero at the end of the run"):
        pruner.verify()


@pytest.mark.parametrize(
    ("scope", "parts"),
    [("attention", (".attn.",)), ("mlp", (".mlp.",)), ("blocks", (".attn.", ".mlp."))],
)
def test_scopes(scope: str, parts: tuple[str, ...]) -> None:
    model = small_gpt()
    linear = {
        name + ".weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    expected = {name for name in linear if any(part in name for part in parts)}
    assert set(model.prunable(scope)) == expected


def test_the_tied_matrix_is_pruned_once_where_the_scope_admits_it() -> None:
    model = small_gpt()
    weights = model.prunable("all")
    assert set(weights) - set(model.prunable("blocks")) == {"transformer.wte.weight"}
    pruner = built("magnitude", model, weights=weights)
    pruner.apply(1, 0.5)
    pruner.verify()
    total = sum(weight.numel() for weight in weights.values())
    assert sum(int((weight == 0.0).sum()) for weight in weights.values()) == round(0.5 * total)
    hidden = torch.randn(1, 1, 16)
    head = torch.nn.functional.linear(hidden, model.transformer.wte.weight)
    assert head.shape[-1] == 24


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"TARGET_SPARSITY": "1.0"}, r"--target-sparsity: 1.0 is outside \[0, 1\)"),
        ({"TARGET_SPARSITY": "-0.1"}, "is outside"),
        ({"TARGET_SPARSITY": "half"}, "'half' is not a number"),
        ({"PRUNING_START": "0.6"}, "--pruning-start 0.6 is not below --pruning-end 0.6"),
        ({"PRUNING_START": "0.9", "PRUNING_END": "0.8"}, "is not below --pruning-end 0.8"),
        ({"PRUNING_INTERVAL": "0"}, "outside"),
        (
            {"SPARSITY_PATTERN": "2:4", "TARGET_SPARSITY": "0.9"},
            "--sparsity-pattern 2:4 is a --target-sparsity of 0.5, not 0.9",
        ),
        ({"SPARSITY_PATTERN": "2:3"}, "did you mean 2:4"),
        ({"PRUNING_METHOD": "magnitud"}, "did you mean magnitude"),
        ({"PRUNING_SCHEDULE": "cubik"}, "did you mean cubic"),
        (
            {"STATE_SCORE": "fisher"},
            "has no effect here: it needs --pruning-method st",
        ),
        (
            {"CALIBRATION_SEQUENCES": "8"},
            "it needs --pruning-method sparsegpt or wanda",
        ),
    ],
)
def test_bad_options(given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        bound("magnitude", **given)
    assert caught.value.code == Exit.CONFIG
    assert len(caught.value.messages) == 1


def test_state_pruning_needs_an_optimizer_that_has_the_state() -> None:
    options = Options()
    options.give("OPTIMIZER", "sgd", "--optimizer")
    options.give("PRUNING_METHOD", "state", "--pruning-method")
    with pytest.raises(UserError) as caught:
        bind(options)
    (message,) = caught.value.messages
    assert message.startswith(
        "--pruning-method: 'state' cannot be chosen here: it needs --optimizer adam, "
    )


#: Pattern, schedule, start and end of each method where nothing is given; None plays no part.
DEFAULTS = {
    "magnitude": ("layer", "cubic", 0.1, 0.6),  # Zhu and Gupta 2017: each layer, equation 1
    "movement": ("layer", "cubic", 0.1, 0.6),  # Sanh et al. 2020: top v of each matrix, cubic
    "random": ("layer", "cubic", 0.1, 0.6),  # as magnitude, which it is the control of
    "rigl": ("erk", None, 0.0, 0.75),  # Evci et al. 2020: ERK, T_end 25 of 32 thousand steps
    "set": ("erk", None, 0.0, 0.75),  # Mocanu et al. 2018: Erdos-Renyi
    "sparsegpt": ("layer", None, 0.5, None),  # Frantar and Alistarh 2023: each layer, one shot
    "state": ("global", "cubic", 0.1, 0.6),  # LeCun et al. 1990: all saliencies in one order
    "static": ("erk", None, 0.0, None),  # as rigl
    "wanda": ("row", None, 0.5, None),  # Sun et al. 2023: each output
}


@EVERY_REAL_METHOD
def test_defaults_follow_the_source(name: str) -> None:
    prune = bound(name)
    assert prune is not None
    assert DEFAULTS[name] == (
        prune.sparsity_pattern,
        prune.pruning_schedule,
        prune.pruning_start,
        prune.pruning_end,
    )


@pytest.mark.parametrize("option", ["PRUNING_START", "PRUNING_END", "PRUNING_INTERVAL"])
def test_nothing_about_time_can_be_given_for_a_static_mask(option: str) -> None:
    value = {"PRUNING_START": "0.2", "PRUNING_END": "0.9", "PRUNING_INTERVAL": "5"}[option]
    flag = "--" + option.lower().replace("_", "-")
    with pytest.raises(
        UserError,
        match=f"^{flag} has no effect here: it needs .* other than static",
    ):
        bound("static", **{option: value})


def test_a_pattern_that_a_method_cannot_have_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"'lamp' cannot be chosen here: it needs .* other than rigl"
    ):
        bound("rigl", SPARSITY_PATTERN="lamp")
