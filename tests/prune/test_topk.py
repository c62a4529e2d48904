"""The exact k smallest of several tensors, against sorting them all."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from gpt2.config.errors import UserError
from gpt2.prune import topk
from gpt2.prune.topk import FIRST, LAST, keys, smallest, smallest_in_rows


def by_sorting(scores: list[Tensor], count: int) -> list[list[int]]:
    """Places taken in each tensor, by Python's own order: score, then tensor, then index."""
    everything = [
        (float(value), number, index)
        for number, tensor in enumerate(scores)
        for index, value in enumerate(tensor.flatten())
    ]
    taken = sorted(everything)[:count]
    return [sorted(i for _, n, i in taken if n == number) for number in range(len(scores))]


def places(masks: list[Tensor]) -> list[list[int]]:
    return [mask.flatten().nonzero().flatten().tolist() for mask in masks]


def make(scores: list[Tensor]) -> list[object]:
    return [lambda tensor=tensor: keys(tensor) for tensor in scores]


@pytest.mark.parametrize("chunk", [3, 64, 1 << 18])
@pytest.mark.parametrize("kind", ["spread", "ties", "signs"])
def test_against_sorting(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "CHUNK", chunk)
    torch.manual_seed(0)
    shapes = [(7, 5), (11,), (4, 8), (1, 1)]
    for seed in range(12):
        scores = [
            torch.randn(shape) * 10.0 ** random.Random(seed).randint(-30, 20) for shape in shapes
        ]
        if kind == "ties":
            scores = [(tensor.sign() * 2.0).round() for tensor in scores]
        elif kind == "spread":
            scores = [tensor.abs() for tensor in scores]
        total = sum(tensor.numel() for tensor in scores)
        for count in (0, 1, total // 3, total - 1, total):
            found = list(smallest(make(scores), count))
            assert places(found) == by_sorting(scores, count)


def test_scores_that_differ_in_the_last_bit_are_told_apart() -> None:
    scores = torch.tensor([1.0, 1.0 + 2**-23, 1.0 - 2**-24, 1e-45, 0.0, -0.0, -1e-45])
    order = [int(next(smallest([lambda: keys(scores)], k)).sum()) for k in range(8)]
    assert order == list(range(8))
    three = next(smallest([lambda: keys(scores)], 3))
    assert three.tolist() == [False, False, False, False, True, True, True]
    assert torch.equal(keys(torch.tensor([0.0])), keys(torch.tensor([-0.0])))


def test_keys_are_in_the_order_of_the_numbers() -> None:
    values = torch.tensor([-torch.inf, -3.4e38, -1.0, -1e-45, 0.0, 1e-45, 1e-38, 2.0, torch.inf])
    found = keys(values).tolist()
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert found[0] > FIRST
    assert found[-1] < LAST


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="not a number"):
        keys(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="5 of 3 elements"):
        list(smallest([lambda: keys(torch.ones(3))], 5))


def test_the_result_does_not_depend_on_threads() -> None:
    torch.manual_seed(1)
    scores = [torch.randn(300, 1000).round(decimals=2) for _ in range(3)]
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(list(smallest(make(scores), 123_457)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert sum(int(mask.sum()) for mask in results[0]) == 123_457


def test_rows_against_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "CHUNK", 20)
    torch.manual_seed(0)
    scores = torch.randn(9, 10).round(decimals=0)
    counts = torch.arange(9)
    found = smallest_in_rows(keys(scores), counts)
    for row in range(9):
        assert places([found[row]]) == by_sorting([scores[row]], row)
