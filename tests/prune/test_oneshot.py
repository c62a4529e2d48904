"""Wanda and SparseGPT against naive loops, and against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2.config import plugins
from gpt2.config.errors import UserError
from gpt2.data.batches import calibration_batches
from gpt2.prune.methods import sparsegpt, wanda
from gpt2.prune.schedule import SparsitySchedule
from tests.support.pruned import sequences, setting_of, small_gpt

DEFAULTS = sparsegpt.Options(block=128, damping=0.01)


def layer(rows: int = 96, columns: int = 128) -> tuple[Tensor, Tensor]:
    """A matrix, and inputs that hang together and differ in scale from column to column."""
    torch.manual_seed(0)
    common = torch.randn(1024, 24) @ torch.randn(24, columns) / 24**0.5
    scales = torch.exp(torch.randn(columns))[torch.randperm(columns)]
    inputs = (common + 0.5 * torch.randn(1024, columns)) * scales
    return torch.randn(rows, columns), inputs


def pruned_by(pruner: Any, inputs: Tensor, count: int, pattern: str) -> Tensor:
    for part in inputs.split(100):
        pruner.see(part)
    mask, weight = pruner.prune(count, pattern)
    assert int(mask.sum()) == count
    return weight.masked_fill(mask, 0.0)


def error(weight: Tensor, pruned: Tensor, inputs: Tensor) -> float:
    return float(((weight - pruned) @ inputs.t()).norm() / (weight @ inputs.t()).norm())


def test_wanda_against_the_naive_double_loop() -> None:
    weight, inputs = layer(12, 20)
    scores = [
        [
            abs(float(weight[i, j])) * sum(float(x) ** 2 for x in inputs[:, j]) ** 0.5
            for j in range(20)
        ]
        for i in range(12)
    ]
    pruner = wanda.InputNorms(weight)
    for part in inputs.split(100):
        pruner.see(part)
    mask, kept = pruner.prune(12 * 8, "row")
    assert torch.equal(kept, weight)
    for i in range(12):
        lowest = sorted(range(20), key=lambda j: scores[i][j])[:8]
        assert mask[i].nonzero().flatten().tolist() == sorted(lowest)


def test_wanda_of_equal_inputs_is_magnitude_by_row() -> None:
    weight, _ = layer(12, 20)
    pruner = wanda.InputNorms(weight)
    pruner.see(torch.ones(5, 20))
    mask, _ = pruner.prune(120, "row")
    for row, chosen in zip(weight.abs(), mask, strict=True):
        assert row[chosen].max() < row[~chosen].min()
        assert int(chosen.sum()) == 10


@pytest.mark.parametrize(("sparsity", "pattern"), [(0.5, "layer"), (0.7, "layer"), (0.5, "2:4")])
def test_sparsegpt_errs_less_than_wanda_and_that_less_than_magnitude(
    sparsity: float, pattern: str
) -> None:
    weight, inputs = layer()
    count = round(sparsity * weight.numel())
    by_sparsegpt = pruned_by(sparsegpt.Compensated(weight, DEFAULTS), inputs, count, pattern)
    rows = "row" if pattern == "layer" else pattern
    by_wanda = pruned_by(wanda.InputNorms(weight), inputs, count, rows)
    flat = wanda.InputNorms(weight)
    by_magnitude = pruned_by(flat, torch.ones(1, weight.size(1)), count, pattern)
    errors = [error(weight, w, inputs) for w in (by_sparsegpt, by_wanda, by_magnitude)]
    assert errors[0] < 0.9 * errors[1]
    assert errors[1] < 0.9 * errors[2]
    if pattern == "2:4":
        assert torch.all((by_sparsegpt.view(-1, 4) == 0.0).sum(dim=1) == 2)


def test_sparsegpt_never_computes_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the run's products are in: the paper's code turns it off, too."""
    seen: list[str] = []
    add, compensate = Tensor.addmm_, sparsegpt._compensate

    def noting(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(*given: Tensor) -> Tensor:
            seen.append(torch.get_float32_matmul_precision())
            return function(*given)

        return noted

    monkeypatch.setattr(Tensor, "addmm_", noting(add))
    monkeypatch.setattr(sparsegpt, "_compensate", noting(compensate))
    weight, inputs = layer(12, 20)
    torch.set_float32_matmul_precision("high")
    try:
        pruner = sparsegpt.Compensated(weight, DEFAULTS)
        pruner.see(inputs)
        pruner.prune(120, "layer")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest", "highest"]


def test_sparsegpt_with_independent_inputs_is_magnitude_and_moves_nothing() -> None:
    weight, _ = layer(16, 32)
    pruner = sparsegpt.Compensated(weight, sparsegpt.Options(block=32, damping=0.01))
    pruner.see(torch.eye(32))  # H = I
    mask, kept = pruner.prune(256, "layer")
    limit = weight.abs().flatten().sort().values[255]
    assert torch.equal(mask, weight.abs() <= limit)
    torch.testing.assert_close(kept[~mask], weight[~mask], rtol=1e-6, atol=1e-6)


def naive(weight: Tensor, inputs: Tensor, counts: list[int], width: int, damping: float) -> Tensor:
    """Algorithm 1 in fp64, one column at a time, each time with the inverse of what is left of H.

    Frantar and Alistarh 2023, equation 3 and section 3.2: the inverse of the Hessian of columns
    j, j+1, ... is computed anew for every j, not by the Cholesky factor.
    """
    w, x = weight.double().clone(), inputs.double()
    hessian = x.t() @ x
    hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    columns = w.size(1)
    mask = torch.zeros_like(w, dtype=torch.bool)
    for block, start in enumerate(range(0, columns, width)):
        stop = min(start + width, columns)
        heads = [torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(start, stop)]
        cost = w[:, start:stop].square() / torch.stack(heads)
        lowest = cost.flatten().argsort()[: counts[block]]
        chosen = torch.zeros(cost.numel(), dtype=torch.bool)
        chosen[lowest] = True
        mask[:, start:stop] = chosen.view_as(cost)
        for j in range(start, stop):
            inverse = torch.linalg.inv(hessian[j:, j:])
            lost = torch.where(mask[:, j], w[:, j], 0.0) / inverse[0, 0]
            w[:, j:] -= torch.outer(lost, inverse[0])
    return w.masked_fill(mask, 0.0)


@pytest.mark.parametrize("width", [4, 7, 16])
def test_sparsegpt_against_the_papers_equations(width: int) -> None:
    weight, inputs = layer(6, 16)
    count = 48
    pruner = sparsegpt.Compensated(weight, sparsegpt.Options(block=width, damping=0.01))
    sizes = [6 * min(width, 16 - start) for start in range(0, 16, width)]
    counts = [size // 2 for size in sizes]
    assert sum(counts) == count
    found = pruned_by(pruner, inputs, count, "layer")
    expected = naive(weight, inputs, counts, width, 0.01)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(found == 0.0, expected == 0.0)


def test_inputs_that_are_always_zero() -> None:
    weight, inputs = layer(8, 16)
    inputs[:, 3] = 0.0
    found = pruned_by(sparsegpt.Compensated(weight, DEFAULTS), inputs, 64, "layer")
    assert torch.isfinite(found).all()
    assert torch.all(found[:, 3] == 0.0)


def test_every_block_sees_the_activations_behind_the_pruned_ones() -> None:
    model = small_gpt()
    setting = setting_of(
        model, schedule=SparsitySchedule("step", 0.0, 0.0, 0.5, None), pattern="row"
    )
    pruner = plugins.load("gpt2.prune.methods", "wanda").build(setting, None)
    dense = {name: weight.detach().clone() for name, weight in model.prunable("blocks").items()}
    pruner.apply(1, 1.0)
    for name, weight in dense.items():  # by hand: the model as it was while this block was seen
        block = int(name.split(".")[2])
        reference = small_gpt()
        for other, earlier in reference.prunable("blocks").items():
            if int(other.split(".")[2]) < block:
                earlier.data.masked_fill_(pruner.masks.pruned(other), 0.0)
        squares = torch.zeros(weight.size(1))

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], squares: Tensor = squares) -> None:
            squares += inputs[0].flatten(0, -2).square().sum(dim=0)

        module = reference.get_submodule(name.removesuffix(".weight"))
        module.register_forward_pre_hook(hook)
        with torch.no_grad():
            for ids in sequences(6).split(2):
                reference.transformer(ids)
        scores = weight.abs() * squares.sqrt()
        for row, chosen in zip(scores, pruner.masks.pruned(name), strict=True):
            assert row[chosen].max() <= row[~chosen].min() * (1.0 + 1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_calibration_text_is_of_the_training_split_and_of_the_seed() -> None:
    ids = torch.arange(1000).to(torch.uint16).numpy()
    drawn = [
        torch.cat(list(calibration_batches(ids, 16, 5, 12, seed, "cpu"))) for seed in (1, 1, 2)
    ]
    assert drawn[0].shape == (12, 16)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    starts = drawn[0][:, 0]
    assert len(set(starts.tolist())) == 12  # no sequence twice
    assert torch.equal(drawn[0], starts.unsqueeze(1) + torch.arange(16))


def test_groups_are_decided_one_after_the_other_as_in_the_paper() -> None:
    weight, inputs = layer(6, 16)
    found = pruned_by(sparsegpt.Compensated(weight, DEFAULTS), inputs, 48, "2:4")
    mask = found.view(6, -1, 4) == 0.0
    assert torch.all(mask.sum(dim=2) == 2)
    by_layer = naive(weight, inputs, [12] * 4, 4, 0.01)  # groups share, rows may differ
    one_row = naive(weight[:1], inputs, [2] * 4, 4, 0.01)  # of one row a group is a block
    single = pruned_by(sparsegpt.Compensated(weight[:1], DEFAULTS), inputs, 8, "2:4")
    torch.testing.assert_close(single.double(), one_row, rtol=1e-3, atol=1e-3)
    assert not torch.equal(by_layer == 0.0, found == 0.0)


def test_products_that_cannot_be_inverted_are_named() -> None:
    weight, inputs = layer(4, 16)
    options = sparsegpt.Options(block=128, damping=1e-12)
    pruner = sparsegpt.Compensated(weight, options)
    pruner.see(inputs[:2])  # of rank 2
    with pytest.raises(UserError, match="--sparsegpt-damping 1e-12"):
        pruner.prune(32, "layer")
