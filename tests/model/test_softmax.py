"""The four forms of the loss's softmax give one loss, also in the form of a GPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt2.model import fused_softmax, softmax
from gpt2.model.build import empty_model
from gpt2.model.form import Form
from gpt2.model.loss import IGNORED, chunked_loss, half_logits
from gpt2.model.softmax import padded_rows
from tests.planning.test_plan import configured

GPU = Form(tall=False, cuda=True)
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def gradients(form: Form, fused: bool, dtype: torch.dtype | None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(70, 16, generator=generator, requires_grad=True)
    weight = torch.randn(90, 16, generator=generator, requires_grad=True)
    targets = torch.randint(90, (70,), generator=generator)
    targets[[0, 33, 69]] = IGNORED
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        loss = chunked_loss(hidden, weight, targets, 32, form, fused=fused)
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad[[0, 33, 69]].any()
    return [loss.detach(), hidden.grad, weight.grad]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", [Form(), GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("fused", [False, True])
def test_every_form_gives_one_loss(
    fused: bool, form: Form, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_softmax, "_compiled", lambda: fused_softmax.slopes_by_parts)
    found = gradients(form, fused, PRECISIONS[precision])
    plain = gradients(Form(tall=False, cuda=False), False, PRECISIONS[precision])
    assert found[2].shape == (90, 16)
    close = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-3}[precision]
    torch.testing.assert_close(found[0], plain[0], atol=1e-5, rtol=1e-5)
    for mine, other in zip(found[1:], plain[1:], strict=True):
        assert float((mine - other).norm() / other.norm()) < close


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padded", [False, True])
def test_tiles_of_16_bits_are_as_exact_as_the_format(
    padded: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64 on the rounded inputs: many tiles, a few chunks, sure and unsure targets."""
    monkeypatch.setattr(softmax, "_CACHED", 700 // torch.get_num_threads())  # seven rows
    monkeypatch.setattr(softmax, "_WORTH_PADDING", 1 if padded else 10**9)
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(75, 24, generator=generator).to(dtype)
    weight = torch.randn(97, 24, generator=generator).to(dtype)
    own = (hidden.float() @ weight.float().t()).argmax(1)  # of which many are all but certain
    own[::3] = torch.randint(97, (25,), generator=generator)
    targets = own.clone()
    targets[[0, 30, 74]] = IGNORED
    mine = [part.float().requires_grad_() for part in (hidden, weight)]
    with torch.autocast("cpu", dtype=dtype):
        loss = chunked_loss(mine[0], mine[1], targets, 32)
    loss.backward()
    exact = [part.double().requires_grad_() for part in (hidden, weight)]
    logits = (exact[0] @ exact[1].t()).to(dtype).double()  # they are held in 16 bits
    logits = exact[0] @ exact[1].t() + (logits - exact[0] @ exact[1].t()).detach()
    true = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED)
    true.backward()
    assert loss.item() == pytest.approx(true.item(), rel=1e-3)  # some logits round elsewhere
    close = 3e-3 if dtype == torch.bfloat16 else 4e-4
    for part, best in zip(mine, exact, strict=True):
        assert part.grad is not None
        assert best.grad is not None
        assert float((part.grad - best.grad).norm() / best.grad.norm()) < close
    assert mine[0].grad is not None
    assert not mine[0].grad[[0, 30, 74]].any()


def test_the_slope_of_a_sure_target_keeps_its_digits() -> None:
    """The probability less 1 would be 0 in bf16 from 0.998 on."""
    hidden = torch.tensor([[7.0], [8.0]]).requires_grad_()
    weight = torch.tensor([[1.0], [0.0], [0.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chunked_loss(hidden, weight, torch.tensor([0, 0]), 2).backward()
    true = [-2.0 / (2.0 + math.exp(x)) / 2.0 for x in (7.0, 8.0)]
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad[:, 0], torch.tensor(true), rtol=4e-3, atol=0.0)


def test_a_target_in_the_padding_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "_WORTH_PADDING", 1)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises((IndexError, RuntimeError), match="out of bounds"),
    ):
        chunked_loss(torch.ones(2, 4), torch.ones(90, 4), torch.tensor([3, 91]), 2)


def test_16_bit_logits_alone_are_held_on_a_cpu() -> None:
    hidden = torch.ones(2, 4)
    assert not half_logits(hidden, Form(), fused=False)
    assert half_logits(hidden, Form(), fused=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert half_logits(hidden, Form(), fused=False)
        assert not half_logits(hidden, GPU, fused=False)


@pytest.mark.long
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_compiled_pass_gives_the_same(precision: str) -> None:
    found = gradients(GPU, True, PRECISIONS[precision])
    plain = gradients(GPU, False, PRECISIONS[precision])
    close = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-3}[precision]
    torch.testing.assert_close(found[0], plain[0], atol=1e-5, rtol=1e-5)
    for mine, other in zip(found[1:], plain[1:], strict=True):
        assert float((mine - other).norm() / other.norm()) < close


class Traffic(TorchDispatchMode):
    """Counts operations and the bytes of what they read and write.

    Views and allocations move nothing; what picks numbers by index moves only those.
    """

    FREE = ("detach", "_unsafe_view", "empty_like", "new_empty", "new_zeros", "new_ones")
    PICKS = ("index", "index_put_", "gather", "nll_loss_forward", "embedding")

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.namespace == "prim":
            return result
        self.operations += 1
        if func.is_view or name in self.FREE:
            return result
        given = tree_leaves((args, kwargs or {}))
        tensors = {id(t): t for t in given + tree_leaves(result) if isinstance(t, Tensor)}
        sizes = [t.numel() * t.element_size() for t in tensors.values()]
        if name in self.PICKS:
            sizes.remove(max(sizes))
        passes = 3 if name == "slopes" else 1  # reads twice, writes once
        self.bytes += passes * sum(sizes)
        return result


def traffic(flags: str) -> Traffic:
    """That of a step of GPT-2 124M, 64 x 1024 tokens in bf16, in the form of a GPU."""
    config = configured(f"--model gpt2 --block-size 1024 --dropout 0 {flags}").model
    with FakeTensorMode():
        model = empty_model(config, 50257, GPU)
        ids = torch.zeros((64, 1024), dtype=torch.int64)
        with Traffic() as found, torch.autocast("cpu", dtype=torch.bfloat16):
            model(ids, ids).backward()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "operations", "gigabytes"),
    [
        # Version 1: 8,670 operations and 361 GB, of which 175 are not the loss's.
        ("--loss chunked --loss-chunk-mib 512", 1970, 280),
        ("--loss fused --loss-chunk-mib 512", 1420, 240),
        ("--loss fused --loss-chunk-mib 1024", 1350, 237),
    ],
)
def test_a_step_on_a_gpu_is_few_operations(flags: str, operations: int, gigabytes: int) -> None:
    found = traffic(flags)
    assert 0.95 * operations < found.operations <= operations
    assert found.bytes <= gigabytes * 1e9


def test_the_head_is_padded_to_a_multiple_of_64() -> None:
    assert [padded_rows(count) for count in (1, 64, 65, 50257)] == [64, 64, 128, 50304]
