"""The chunked loss against the plain one, slow loops and double precision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2.model.loss import IGNORED, _even, chunked_loss, full_loss
from gpt2.model.softmax import TILE

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
N, D, V = 7, 5, 11


def problem(
    n: int = N, d: int = D, v: int = V, ignored: tuple[int, ...] = (), scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * v)
    hidden = torch.randn(n, d, generator=generator)
    weight = scale * torch.randn(v, d, generator=generator)
    targets = torch.randint(v, (n,), generator=generator)
    targets[list(ignored)] = IGNORED
    return hidden, weight, targets


def run(loss_of: Loss, hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor | None]:
    """Loss and gradients; a gradient is asked for where the input says so."""
    inputs = [part.detach().clone() for part in (hidden, weight)]
    for mine, given in zip(inputs, (hidden, weight), strict=True):
        mine.requires_grad_(given.requires_grad)
    loss = loss_of(*inputs, targets)
    if loss.requires_grad:
        loss.backward()
    return [loss.detach(), *(part.grad for part in inputs)]


def chunked(rows: int) -> Loss:
    return lambda hidden, weight, targets: chunked_loss(hidden, weight, targets, rows)


def exact(hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor | None]:
    """Loss and gradients in double precision."""
    double = [part.detach().double().requires_grad_() for part in (hidden, weight)]
    logits = double[0] @ double[1].t()
    counted = targets != IGNORED
    own = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    loss = ((logits.logsumexp(1) - own) * counted).sum() / counted.sum()
    loss.backward()
    return [loss.detach(), *(part.grad for part in double)]


def error(found: Tensor | None, expected: Tensor | None) -> float:
    """Relative size of the difference."""
    assert found is not None
    assert expected is not None
    assert torch.isfinite(found).all()
    return float((found.double() - expected.double()).norm() / expected.double().norm())


SOME = (0, 3, 4)


@pytest.mark.parametrize("ignored", [(), SOME, tuple(range(1, N))], ids=str)
def test_both_forms_are_the_slow_loop(ignored: tuple[int, ...]) -> None:
    hidden, weight, targets = problem(ignored=ignored)
    losses = []
    for n in range(N):
        if n in ignored:
            continue
        logits = [sum(float(a * b) for a, b in zip(hidden[n], row, strict=True)) for row in weight]
        losses.append(math.log(sum(map(math.exp, logits))) - logits[int(targets[n])])
    expected = sum(losses) / len(losses)
    assert abs(float(full_loss(hidden, weight, targets)) - expected) < 1e-5
    assert abs(float(chunked_loss(hidden, weight, targets, 2)) - expected) < 1e-5


@pytest.mark.parametrize("rows", [1, 2, 3, 6, N, N + 1, 1000])
@pytest.mark.parametrize("ignored", [(), SOME, (0, 1, 2)], ids=str)
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_chunked_equals_full(rows: int, ignored: tuple[int, ...], needs: tuple[bool, bool]) -> None:
    hidden, weight, targets = problem(ignored=ignored)
    hidden.requires_grad_(needs[0])
    weight.requires_grad_(needs[1])
    found = run(chunked(rows), hidden, weight, targets)
    expected = run(full_loss, hidden, weight, targets)
    assert [part is None for part in found[1:]] == [not need for need in needs]
    for mine, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-6)
    if needs[0]:
        assert found[1] is not None
        assert torch.count_nonzero(found[1][list(ignored)]) == 0


@pytest.mark.parametrize("rows", [2, 100])
def test_without_a_single_target_both_are_nan(rows: int) -> None:
    hidden, weight, targets = problem(ignored=tuple(range(N)))
    assert math.isnan(full_loss(hidden, weight, targets))
    assert math.isnan(chunked_loss(hidden, weight, targets, rows))


@pytest.mark.parametrize("rows", [3, 1000])
def test_large_logits_do_not_overflow(rows: int) -> None:
    hidden, weight, targets = problem(scale=300.0)
    hidden.requires_grad_()
    weight.requires_grad_()
    found, expected = run(chunked(rows), hidden, weight, targets), exact(hidden, weight, targets)
    assert found[0] is not None
    assert float(found[0]) > 100.0
    assert max(error(a, b) for a, b in zip(found, expected, strict=True)) < 1e-5


@pytest.mark.parametrize("vocabulary", [TILE - 1, TILE, TILE + 1, 2 * TILE + 700])
def test_many_tiles_and_chunks_are_exact(vocabulary: int) -> None:
    hidden, weight, targets = problem(70, 6, vocabulary, ignored=(0, 40, 69))
    targets[1:3] = torch.tensor([0, vocabulary - 1])
    hidden.requires_grad_()
    weight.requires_grad_()
    expected = exact(hidden, weight, targets)
    for rows in (19, 33, 1000):
        found = run(chunked(rows), hidden, weight, targets)
        assert max(error(a, b) for a, b in zip(found, expected, strict=True)) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(value: float, dtype: torch.dtype) -> None:
    hidden, weight, targets = problem()
    hidden[3, 2] = value
    hidden.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss, *gradients = run(chunked(3), hidden, weight, targets)
    for part in (loss, *gradients):
        assert part is not None
        assert not torch.isfinite(part).all()


@pytest.mark.parametrize("target", [V, -1])
def test_a_target_outside_the_vocabulary_is_an_error(target: int) -> None:
    hidden, weight, targets = problem()
    targets[4] = target
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        chunked_loss(hidden, weight, targets, 3)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 256, 2048, 2049, 5000])
@pytest.mark.parametrize("most", [1, 7, 16, 17, 262, 333, 10**6])
def test_chunks_are_even_aligned_and_within_the_bound(count: int, most: int) -> None:
    rows = _even(count, most)
    assert 1 <= rows <= most
    if most >= 16:
        assert rows % 16 == 0
        # As few chunks as the bound, rounded down to whole cache lines, admits.
        assert -(-count // rows) <= -(-count // (most - most % 16))


def test_the_gradient_follows_a_factor_and_adds_up() -> None:
    hidden, weight, targets = problem(ignored=SOME)
    hidden.requires_grad_()
    weight.requires_grad_()
    once = run(chunked(3), hidden, weight, targets)
    scaled = run(lambda *given: chunked_loss(*given, 3) * -3.5, hidden, weight, targets)
    for part, plain in zip(scaled[1:], once[1:], strict=True):
        assert plain is not None
        torch.testing.assert_close(part, plain * -3.5)
    loss = chunked_loss(hidden, weight, targets, 3) + chunked_loss(hidden, weight, targets, 5)
    loss.backward(retain_graph=True)
    assert once[2] is not None
    torch.testing.assert_close(weight.grad, once[2] * 2.0)
    with pytest.raises(RuntimeError, match="one backward pass only"):
        loss.backward()
    torch.testing.assert_close(weight.grad, once[2] * 2.0)


@pytest.mark.parametrize("rows", [5, 64, 1000])
def test_bf16_autocast_is_the_standard_path(rows: int) -> None:
    hidden, weight, targets = problem(200, 32, 500, ignored=(3, 70), scale=0.3)
    hidden.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(chunked(rows), hidden, weight, targets)
        standard = run(full_loss, hidden, weight, targets)
    true = exact(hidden, weight, targets)
    for part in found:
        assert part is not None
        assert part.dtype == torch.float32
    torch.testing.assert_close(found[0], standard[0], atol=1e-6, rtol=2e-7)
    assert error(found[0], true[0]) > 1e-6  # it was bf16 that was computed in
    for mine, plain, best in zip(found[1:], standard[1:], true[1:], strict=True):
        assert error(mine, best) <= 1.05 * error(plain, best)


def scaled(loss_of: Loss, scaler: torch.amp.GradScaler, *given: Tensor) -> list[Tensor]:
    """Gradients under fp16 autocast and `scaler`, with its factor taken out again."""
    with torch.autocast("cpu", dtype=torch.float16):
        found = run(lambda *inner: scaler.scale(loss_of(*inner)), *given)
    factor = scaler.get_scale()
    return [part / factor for part in found[1:] if part is not None]


@pytest.mark.parametrize("rows", [100, 5000])
@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_fp16_gradients_neither_vanish_nor_overflow(rows: int, scale: float) -> None:
    hidden, weight, targets = problem(2048, 8, 2000, scale=0.05)
    hidden.requires_grad_()
    weight.requires_grad_()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    found = scaled(chunked(rows), scaler, hidden, weight, targets)
    true = exact(hidden, weight, targets)[1:]
    assert max(error(mine, best) for mine, best in zip(found, true, strict=True)) < 6e-4
    if scale == 1.0:  # the plain form loses digits here: each slope is divided by N first
        plain = scaled(full_loss, scaler, hidden, weight, targets)
        assert error(plain[0], true[0]) > 2e-3


def test_fp16_sums_over_many_rows_stay_finite() -> None:
    # One slope per row of about a half, times 4: their sum over all rows is beyond fp16.
    hidden, weight, targets = torch.full((70_000, 2), 4.0), torch.zeros(2, 2), torch.zeros(70_000)
    hidden.requires_grad_()
    weight.requires_grad_()
    scaler = torch.amp.GradScaler("cpu")
    found = scaled(chunked(10**9), scaler, hidden, weight, targets.long())
    torch.testing.assert_close(found[1], torch.tensor([[-2.0, -2.0], [2.0, 2.0]]))


class Watch(TorchDispatchMode):
    """Counts operations and the size of what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls[func.overloadpacket.__name__] += 1
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor):
                self.largest = max(self.largest, part.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_than_a_chunk_of_logits_exists(dtype: torch.dtype) -> None:
    rows, n, d, v = 8, 64, 4, 100
    hidden, weight, targets = problem(n, d, v)
    hidden.requires_grad_()
    weight.requires_grad_()
    largest = {}
    for name, loss_of in {"chunked": chunked(rows), "full": full_loss}.items():
        autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
        with Watch() as watch, autocast:
            run(loss_of, hidden, weight, targets)
        largest[name] = watch.largest
    assert largest == {"chunked": rows * v, "full": n * v}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_only_the_logits_are_multiplied(mode: Any, dtype: torch.dtype) -> None:
    def products(watch: Watch) -> int:
        return watch.calls["mm"] + watch.calls["addmm"] + watch.calls["addmm_"]

    hidden, weight, targets = problem(8)
    hidden.requires_grad_()
    weight.requires_grad_()
    autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
    with Watch() as training, autocast:
        chunked_loss(hidden, weight, targets, 2)
    with mode(), Watch() as evaluating, autocast:
        chunked_loss(hidden, weight, targets, 2)
    assert products(training) == 4 * 3
    assert products(evaluating) == 4
