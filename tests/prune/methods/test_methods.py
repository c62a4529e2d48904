"""Each pruning method against its paper's formula, or another implementation."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as torch_prune
from torch import Tensor, nn

from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.options import Options
from gpt2.model.gpt import GPT
from gpt2.model.matrices import matrices_of
from gpt2.optim.groups import parameter_groups
from gpt2.prune.base import MaskedPruner
from gpt2.prune.schedule import SparsitySchedule
from tests.support.pruned import give_gradients, setting_of, small_gpt

PACKAGE = "gpt2.prune.methods"
AT_ONCE = SparsitySchedule("step", 0.0, 0.0, 0.5, None)


def method(name: str) -> Any:
    return plugins.load(PACKAGE, name)


def masks(pruner: MaskedPruner) -> dict[str, Tensor]:
    return {name: pruner.masks.pruned(name) for name in pruner.context.weights}


def by_matrix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of parameters that are matrices of their own."""
    return {
        matrix.name: tensor[matrix.rows]
        for name, tensor in tensors.items()
        for matrix in matrices_of(name, tensor.shape)
    }


def test_magnitude_against_torchs_global_unstructured() -> None:
    model = small_gpt()
    theirs = copy.deepcopy(model)
    linear = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
    layers = [(module, "weight") for module in linear]
    total = sum(module.weight.numel() for module in linear)
    torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=round(0.7 * total))
    pruner = method("magnitude").build(
        setting_of(model, schedule=SparsitySchedule("step", 0, 0, 0.7, None)), None
    )
    pruner.apply(1, 0.5)
    expected = {
        name + ".weight": module.weight_mask == 0
        for name, module in theirs.named_modules()
        if isinstance(module, nn.Linear)
    }
    for name, mask in masks(pruner).items():
        assert torch.equal(mask, expected[name])


def test_magnitude_by_layer_against_torchs_l1() -> None:
    model = small_gpt()
    pruner = method("magnitude").build(setting_of(model, pattern="layer"), None)
    before = {name: weight.detach().clone() for name, weight in model.prunable("blocks").items()}
    pruner.apply(1, 0.5)
    for name, mask in masks(pruner).items():
        for matrix in matrices_of(name, mask.shape):
            layer = nn.Linear(*reversed(matrix.shape), bias=False)
            layer.weight.data.copy_(before[name][matrix.rows])
            torch_prune.l1_unstructured(layer, "weight", amount=matrix.shape.numel() // 2)
            assert torch.equal(mask[matrix.rows], layer.weight_mask == 0)


def test_movement_against_a_hand_sum() -> None:
    model = small_gpt()
    optimizer = torch.optim.SGD(parameter_groups(model, 0.05, 0.0))
    pruner = method("movement").build(
        setting_of(model, optimizer, SparsitySchedule("step", 1, 1, 0.5, None)), None
    )
    weights = model.prunable("blocks")
    sums = {
        name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in weights.items()
    }
    for step in range(5):
        give_gradients(model, step)
        for name, weight in weights.items():
            assert weight.grad is not None
            if step != 2:  # which is refused
                sums[name] -= weight.grad.double() * weight.detach().double()
        pruner.mask_gradients(step, step / 5)
        pruner.observe(torch.tensor(step == 2))
        if step != 2:
            optimizer.step()
        pruner.apply(step + 1, (step + 1) / 5)
    for name, found in pruner.scoring.tensors().items():
        torch.testing.assert_close(found.double(), sums[name], rtol=1e-5, atol=1e-6)
    everything = torch.cat([sums[name].flatten() for name in weights])
    limit = everything.sort().values[round(0.5 * len(everything)) - 1]
    chosen = torch.cat([mask.flatten() for mask in masks(pruner).values()])
    assert (chosen == (everything <= limit)).float().mean() > 0.999  # but for rounding


def test_a_refused_step_leaves_the_movement_scores_finite() -> None:
    model = small_gpt()
    pruner = method("movement").build(setting_of(model), None)
    give_gradients(model, 0)
    next(iter(model.prunable("blocks").values())).grad[0, 0] = torch.nan
    pruner.observe(torch.tensor(True))
    assert all(torch.all(score == 0.0) for score in pruner.scoring.tensors().values())


def test_movement_keeps_what_moves_away_from_zero() -> None:
    model = small_gpt()
    optimizer = torch.optim.SGD(parameter_groups(model, 0.001, 0.0))
    ramp = SparsitySchedule("step", 1.0, 1.0, 0.5, None)
    pruner = method("movement").build(setting_of(model, optimizer, ramp), None)
    away = {}
    for name, weight in model.prunable("blocks").items():
        torch.manual_seed(len(name))
        away[name] = torch.zeros(weight.shape, dtype=torch.bool).flatten()
        away[name][torch.randperm(weight.numel())[: weight.numel() // 2]] = True
        away[name] = away[name].view(weight.shape)
    for step in range(3):
        for name, weight in model.prunable("blocks").items():
            # Descent subtracts the gradient: one of the other sign moves a weight away from zero.
            weight.grad = torch.where(away[name], -weight.sign(), weight.sign())
        pruner.observe(torch.tensor(False))
        optimizer.step()
        pruner.apply(step + 1, (step + 1) / 3)
    for name, mask in masks(pruner).items():
        assert torch.equal(mask, ~away[name])


def trained_state(steps: int) -> tuple[GPT, torch.optim.Optimizer]:
    """A model whose gradients differ in size from weight to weight, by factors of 1 to 1e-6."""
    model = small_gpt()
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-5, 0.0), betas=(0.9, 0.95))
    torch.manual_seed(0)
    sizes = {p: 10.0 ** (-6.0 * torch.rand(p.shape)) for p in model.parameters()}
    for step in range(steps):
        give_gradients(model, step)
        for parameter, size in sizes.items():
            assert parameter.grad is not None
            parameter.grad *= size * 1e-6  # v is about 1e-12 to 1e-24
        optimizer.step()
    return model, optimizer


FORMULAS: dict[str, Callable[[float, float, float], float]] = {
    "fisher": lambda w, m, v: abs(w) * math.sqrt(v),
    "fourth-root": lambda w, m, v: abs(w) * v**0.25,
    "momentum-stability": lambda w, m, v: w * w * abs(m) / math.sqrt(v),
    "gradient-magnitude": lambda w, m, v: abs(w) * math.sqrt(abs(m)),
    "coherence": lambda w, m, v: abs(w) * math.sqrt(abs(m)) * math.sqrt(m * m / v),
}


@pytest.mark.parametrize("score", FORMULAS)
def test_state_scores_against_their_formulas_and_not_like_magnitude(score: str) -> None:
    model, optimizer = trained_state(30)
    options = method("state").Options(score=score)
    pruner = method("state").build(setting_of(model, optimizer), options)
    weights = model.prunable("blocks")
    wanted, magnitudes = [], []
    for weight in weights.values():
        held = optimizer.state[weight]
        numbers = zip(
            weight.flatten().tolist(),
            held["exp_avg"].flatten().tolist(),
            held["exp_avg_sq"].flatten().tolist(),
            strict=True,
        )
        wanted += [FORMULAS[score](*each) for each in numbers]
        magnitudes += weight.abs().flatten().tolist()
    pruner.apply(1, 0.5)
    chosen = torch.cat([mask.flatten() for mask in masks(pruner).values()])
    half = len(wanted) // 2

    def lowest(scores: list[float]) -> Tensor:
        mask = torch.zeros(len(scores), dtype=torch.bool)
        mask[torch.tensor(scores, dtype=torch.float64).argsort()[:half]] = True
        return mask

    assert (chosen == lowest(wanted)).float().mean() > 0.999  # fp32 against fp64
    # Were an epsilon larger than v, every score would rank like plain magnitude.
    assert (chosen == lowest(magnitudes)).float().mean() < 0.97


def test_a_weight_without_gradients_scores_zero() -> None:
    for score in ("momentum-stability", "coherence"):
        formula = method("state").FromState(score)
        zero = torch.zeros(3)
        found = formula.score("w", torch.ones(3), {"exp_avg": zero, "exp_avg_sq": zero})
        assert found.tolist() == [0.0, 0.0, 0.0]


def test_fisher_is_the_true_ranking_on_a_quadratic() -> None:
    # L = 1/2 sum h_i (w_i - c_i)^2 seen through noise of variance h_i: then E[g^2] = h_i, the
    # Hessian, at the minimum; what zeroing a weight costs there is h_i c_i^2 / 2 (OBD).
    torch.manual_seed(0)
    hessian = 10.0 ** (4.0 * torch.rand(400) - 2.0)
    centre = torch.randn(400)
    weight = nn.Parameter(centre.clone())
    optimizer = torch.optim.Adam([weight], lr=0.0, betas=(0.9, 0.999))
    for _ in range(4000):
        weight.grad = hessian * (weight.detach() - centre) + hessian.sqrt() * torch.randn(400)
        optimizer.step()
    state = optimizer.state[weight]
    found = method("state").FromState("fisher").score("w", weight.detach(), state)
    cost = torch.tensor(
        [0.5 * float(h) * float(c) ** 2 for h, c in zip(hessian, centre, strict=True)]
    )
    ranks = [scores.argsort().argsort().double() for scores in (found, cost)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.999
    magnitude = centre.abs().argsort().argsort().double()
    assert torch.corrcoef(torch.stack([magnitude, ranks[1]]))[0, 1] < 0.9


def test_random_is_of_the_seed_alone_and_nested() -> None:
    found = {}
    for seed in (1, 2):
        for target in (0.3, 0.6):
            setting = setting_of(
                small_gpt(target > 0.5),
                schedule=SparsitySchedule("step", 0, 0, target, None),
                seed=seed,
            )
            pruner = method("random").build(setting, None)
            pruner.apply(1, 1.0)
            found[seed, target] = torch.cat([m.flatten() for m in masks(pruner).values()])
    assert not (found[1, 0.3] & ~found[1, 0.6]).any()
    overlap = (found[1, 0.6] & found[2, 0.6]).float().mean()
    assert overlap == pytest.approx(0.36, abs=0.03)  # two independent draws


def test_random_draws_once_an_event_and_chooses_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two events of a global threshold, whose three passes drew three times before."""
    random, found = method("random"), {}
    drawn: Counter[str] = Counter()
    score = random.Random.score

    def counted(self: Any, name: str, weight: Tensor, state: Any) -> Tensor:
        drawn[name] += 1
        return score(self, name, weight, state)

    monkeypatch.setattr(random.Random, "score", counted)
    for once in (True, False):
        monkeypatch.setattr(random.Random, "slow", once)
        drawn.clear()
        schedule = SparsitySchedule("linear", 0.0, 1.0, 0.6, 10)
        pruner = random.build(setting_of(small_gpt(), schedule=schedule, seed=3), None)
        for step in (50, 100):
            pruner.apply(step, step / 100)
        assert set(drawn.values()) == {2 if once else 6}
        found[once] = masks(pruner)
    for name, mask in found[True].items():
        assert torch.equal(mask, found[False][name])


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_dynamic_events_by_hand(name: str) -> None:
    model = small_gpt()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 0.0))
    ramp = SparsitySchedule("linear", 0.0, 0.75, 0.8, 10)
    setting = setting_of(model, optimizer, ramp, pattern="erk")
    pruner = method(name).build(setting, method(name).Options(fraction=0.3))
    weights = model.prunable("blocks")
    first = by_matrix(masks(pruner))
    counts = {key: int(mask.sum()) for key, mask in first.items()}
    grew = 0
    for step in range(100):
        give_gradients(model, step)
        before = by_matrix(masks(pruner))
        old = by_matrix({key: weight.detach().clone() for key, weight in weights.items()})
        dense = by_matrix({key: weight.grad.clone() for key, weight in weights.items()})
        pruner.mask_gradients(step, step / 100)
        after, now = by_matrix(masks(pruner)), by_matrix(weights)
        gradients = by_matrix({key: weight.grad for key, weight in weights.items()})
        held = [
            by_matrix({key: optimizer.state[w][moment] for key, w in weights.items()})
            for moment in ("exp_avg", "exp_avg_sq")
            if step
        ]
        event = 0 < step < 75 and (step - 1) % 10 == 0
        share = 0.3 / 2 * (1 + math.cos(math.pi * step / 75))  # Evci et al. 2020, 3 (2)
        for key, weight in now.items():
            dropped, grown = after[key] & ~before[key], before[key] & ~after[key]
            live = weight.numel() - counts[key]
            moved = min(int(share * live), counts[key]) if event else 0
            assert int(dropped.sum()) == int(grown.sum()) == moved
            assert int(after[key].sum()) == counts[key]
            if moved:
                grew += moved
                kept = ~before[key] & ~dropped
                assert old[key][dropped].abs().max() <= old[key][kept].abs().min()
                assert torch.all(weight[grown] == 0.0)  # they start at zero
                for moments in held:
                    assert torch.all(moments[key][grown | dropped] == 0.0)
                left = before[key] & ~grown
                if name == "rigl":
                    assert dense[key][grown].abs().min() >= dense[key][left].abs().max()
            assert torch.equal(gradients[key][~after[key]], dense[key][~after[key]])
            assert torch.all(gradients[key][after[key]] == 0.0)
        optimizer.step()
        pruner.apply(step + 1, (step + 1) / 100)
    assert grew > 0
    pruner.verify()


def test_growth_by_gradient_leaves_queries_and_keys_their_share() -> None:
    model = small_gpt()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 0.0))
    ramp = SparsitySchedule("linear", 0.0, 0.75, 0.8, 10)
    setting = setting_of(model, optimizer, ramp, pattern="erk")
    pruner = method("rigl").build(setting, method("rigl").Options(fraction=0.3))
    for step in range(60):
        give_gradients(model, step)
        for name, weight in model.prunable("blocks").items():
            if name.endswith("c_attn.weight"):
                weight.grad[2 * 16 :] *= 1000.0  # those of values, as in a model that is trained
        pruner.mask_gradients(step, step / 60)
        optimizer.step()
        pruner.apply(step + 1, (step + 1) / 60)
    found = pruner.sparsity().layers
    for block in (0, 1):
        parts = [found[f"transformer.h.{block}.attn.c_attn.{part}.weight"] for part in "qkv"]
        assert max(parts) - min(parts) <= 1 / 256  # a weight that rounding gives to one of them


def test_a_static_mask_is_the_first_of_rigl_and_never_moves() -> None:
    found = {}
    for name, options in (("static", None), ("rigl", method("rigl").Options(fraction=0.3))):
        model = small_gpt()
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 0.1))
        ramp = SparsitySchedule("step", 0.0, 0.0, 0.8, None)
        pruner = method(name).build(setting_of(model, optimizer, ramp, pattern="erk"), options)
        found[name] = masks(pruner)
    pruner = method("static").build(setting_of(model, optimizer, ramp, pattern="erk"), None)
    for step in range(10):
        give_gradients(model, step)
        pruner.mask_gradients(step, step / 10)
        optimizer.step()
        pruner.apply(step + 1, (step + 1) / 10)
    for name, mask in masks(pruner).items():
        assert torch.equal(mask, found["rigl"][name])
        assert torch.equal(mask, found["static"][name])
        assert torch.equal(model.get_parameter(name) == 0.0, mask)
    pruner.verify()


def test_growth_waits_for_gradients_that_are_finite() -> None:
    model = small_gpt()
    ramp = SparsitySchedule("linear", 0.0, 0.75, 0.5, 10)
    pruner = method("rigl").build(
        setting_of(model, schedule=ramp, pattern="layer"), method("rigl").Options(fraction=0.3)
    )
    first = masks(pruner)
    for step, bad in ((1, True), (2, False)):
        give_gradients(model, step)
        if bad:
            next(iter(model.prunable("blocks").values())).grad[0, 0] = torch.inf
        pruner.mask_gradients(step, step / 100)
        same = all(torch.equal(mask, first[name]) for name, mask in masks(pruner).items())
        assert same == bad


def test_what_rigl_grows_moves_under_spam() -> None:
    model = small_gpt()
    options = Options()
    options.give("OPTIMIZER", "adamwspam", "--optimizer")
    optim = bind(options).optim
    optimizer = plugins.load("gpt2.optim.optimizers", "adamwspam").build(
        parameter_groups(model, 0.01, 0.0), optim.options
    )
    ramp = SparsitySchedule("linear", 0.0, 0.75, 0.8, 10)
    pruner = method("rigl").build(
        setting_of(model, optimizer, ramp, pattern="erk"), method("rigl").Options(fraction=0.3)
    )
    for step in range(60):
        give_gradients(model, step)
        pruner.mask_gradients(step, step / 60)
        optimizer.step()
        pruner.apply(step + 1, (step + 1) / 60)
    for name, weight in model.prunable("blocks").items():
        assert torch.all(weight[~pruner.masks.pruned(name)] != 0.0), name


def test_state_waits_for_an_optimizer_that_has_refused_every_step() -> None:
    model = small_gpt()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 0.0))
    pruner = method("state").build(
        setting_of(model, optimizer), method("state").Options(score="fisher")
    )
    pruner.apply(1, 0.1)
    assert pruner.sparsity().reached == 0.0
    give_gradients(model, 0)
    optimizer.step()
    pruner.apply(2, 0.2)
    pruner.verify()


def test_state_that_is_not_of_the_weights_is_left_alone() -> None:
    model = small_gpt()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 0.0))
    give_gradients(model, 0)
    optimizer.step()
    before = {w: optimizer.state[w]["exp_avg"].clone() for w in model.prunable("blocks").values()}
    pruner = method("magnitude").build(setting_of(model, optimizer, clear_state=False), None)
    pruner.apply(1, 1.0)
    pruner.verify()
    assert all(torch.equal(optimizer.state[w]["exp_avg"], m) for w, m in before.items())
