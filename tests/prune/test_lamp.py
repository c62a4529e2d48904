"""LAMP against a slow loop over the paper's formula, and with other criteria than magnitude."""

from __future__ import annotations

import functools
import random
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from gpt2.config import plugins
from gpt2.model.gpt import GPT
from gpt2.model.matrices import Matrix, matrices_of
from gpt2.optim.groups import parameter_groups
from gpt2.prune.lamp import lamp_counts, lamp_scores
from gpt2.prune.schedule import SparsitySchedule
from tests.support.pruned import give_gradients, setting_of, small_gpt


def by_the_paper(weights: list[float]) -> list[Fraction]:
    """Lee et al. 2021, equation 3, exactly: the score of each weight, where it stands.

    W[u]^2 / sum of W[v]^2 over v >= u, the weights sorted by |W|, of equal ones the earlier first.
    """
    order = sorted(range(len(weights)), key=lambda i: (abs(weights[i]), i))
    scores = [Fraction(0)] * len(weights)
    for place, u in enumerate(order):
        above = sum(Fraction(weights[v]) ** 2 for v in order[place:])
        scores[u] = Fraction(weights[u]) ** 2 / above if above else Fraction(0)
    return scores


def drawn(size: int, rng: random.Random, zeros: int = 0) -> list[float]:
    """Weights of both signs, in fp32, with ties and `zeros` zeros."""
    numbers = [rng.choice([-1.5, -0.25, 0.25, 1.5, 3.0]) for _ in range(size // 3)]
    numbers += [rng.gauss(0.0, 10.0 ** rng.uniform(-3, 1)) for _ in range(size - len(numbers))]
    numbers = torch.tensor(numbers, dtype=torch.float32).tolist()
    numbers[:zeros] = [0.0] * zeros
    rng.shuffle(numbers)
    return numbers


def test_scores_are_the_papers() -> None:
    rng = random.Random(0)
    for size in (1, 2, 7, 60):
        for zeros in (0, size // 3, size):
            weights = drawn(size, rng, zeros)
            expected = sorted(float(score) for score in by_the_paper(weights))
            found = lamp_scores(torch.tensor(weights))
            torch.testing.assert_close(
                found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0.0
            )
    assert float(lamp_scores(torch.tensor([1e-20, 1e-18]))[-1]) == 1.0  # squares of 0 in fp32


def test_counts_are_those_of_the_lowest_scores_of_all() -> None:
    rng = random.Random(1)
    for _ in range(30):
        matrices = [drawn(rng.randint(2, 40), rng) for _ in range(4)]
        gone = [rng.randint(0, len(weights) // 2) for weights in matrices]
        for weights, count in zip(matrices, gone, strict=True):
            for i in rng.sample(range(len(weights)), count):
                weights[i] = 0.0
        size = sum(map(len, matrices))
        total = rng.randint(sum(gone), size)
        make = [functools.partial(torch.tensor, weights) for weights in matrices]
        found = lamp_counts(make, total, gone)
        assert sum(found) == total
        assert all(count >= least for count, least in zip(found, gone, strict=True))
        scores = [
            (float(torch.tensor(float(score))), place)  # to fp32: equal there, the earlier go first
            for place, weights in enumerate(matrices)
            for score in by_the_paper(weights)
        ]
        lowest = [place for _, place in sorted(scores)[:total]]
        assert found == [lowest.count(place) for place in range(4)]


def pruned_by(name: str, model: GPT, steps: int, pattern: str = "lamp") -> dict[str, Tensor]:
    """The masks after a ramp to 80 %, in events after each of `steps` steps."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 0.0))
    ramp = SparsitySchedule("linear", 0.0, 1.0, 0.8, 1)
    setting = setting_of(model, optimizer, ramp, pattern=pattern)
    plugin = plugins.load("gpt2.prune.methods", name)
    pruner = plugin.build(setting, plugin.Options(score="fisher") if name == "state" else None)
    for step in range(steps):
        give_gradients(model, step)
        pruner.mask_gradients(step, step / steps)
        pruner.observe(torch.tensor(False))
        optimizer.step()
        pruner.apply(step + 1, (step + 1) / steps)
    pruner.verify()
    return {key: pruner.masks.pruned(key) for key in setting.weights}


def all_matrices(model: GPT) -> list[Matrix]:
    weights = model.prunable("blocks")
    return [m for name, w in weights.items() for m in matrices_of(name, w.shape)]


def test_magnitude_in_this_pattern_is_lamp() -> None:
    model = small_gpt(width=8, layers=1)
    with torch.no_grad():
        for place, matrix in enumerate(all_matrices(model)):
            model.get_parameter(matrix.parameter)[matrix.rows] *= 1.0 + place  # of no effect
            model.get_parameter(matrix.parameter)[matrix.rows].pow_(1 + 2 * (place % 2))
    scores, places = [], []
    for matrix in all_matrices(model):
        weights = model.get_parameter(matrix.parameter)[matrix.rows].flatten().tolist()
        scores += [float(score) for score in by_the_paper(weights)]
        places += [matrix.name] * len(weights)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.0, 0.0))
    setting = setting_of(
        model, optimizer, SparsitySchedule("step", 0.0, 0.0, 0.8, None), pattern="lamp"
    )
    pruner = plugins.load("gpt2.prune.methods", "magnitude").build(setting, None)
    pruner.apply(1, 1.0)
    found = torch.cat(
        [
            pruner.masks.pruned(matrix.parameter)[matrix.rows].flatten()
            for matrix in all_matrices(model)
        ]
    )
    order = torch.tensor(scores, dtype=torch.float64).argsort(stable=True)
    expected = torch.zeros(len(scores), dtype=torch.bool)
    expected[order[: round(0.8 * len(scores))]] = True
    assert torch.equal(found, expected)
    shares = pruner.sparsity().layers
    assert max(shares.values()) - min(shares.values()) > 0.05  # and no equal shares


@pytest.mark.parametrize("name", ["magnitude", "state", "movement", "random"])
def test_a_ramp_is_exact_and_gives_nothing_back(name: str) -> None:
    model = small_gpt()
    masks = pruned_by(name, model, 6)
    for key, mask in masks.items():
        assert torch.all(model.get_parameter(key)[mask] == 0.0)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.8 * total)


def test_other_criteria_get_the_same_allocation() -> None:
    counts, chosen = [], []
    for name in ("magnitude", "state"):
        model = small_gpt()
        masks = pruned_by(name, model, 1)
        matrices = all_matrices(model)
        counts.append([int(masks[m.parameter][m.rows].sum()) for m in matrices])
        chosen.append(torch.cat([mask.flatten() for mask in masks.values()]))
    assert counts[0] == counts[1]
    assert not torch.equal(chosen[0], chosen[1])
