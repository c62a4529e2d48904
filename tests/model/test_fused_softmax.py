"""The softmax in one pass against double precision, in place, and where there is no compiler."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gpt2.config.errors import UserError
from gpt2.model import fused_softmax
from gpt2.model.fused_softmax import check_compiler, slopes_by_parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padding", [0, 7])
def test_slopes_are_the_gradient_of_the_loss(dtype: torch.dtype, padding: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (4.0 * torch.randn(6, 50 + padding, generator=generator)).to(dtype)
    own = torch.tensor([0, 49, 3, 7, 7, 20])
    counted = torch.tensor([True, True, False, True, True, True])
    true = logits[:, :50].double().requires_grad_()
    expected = F.cross_entropy(true, own, reduction="none")
    (expected * counted).sum().backward()
    held = logits.data_ptr()
    losses = slopes_by_parts(logits, own, counted, 50)
    assert logits.data_ptr() == held
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected.detach() * counted, atol=1e-5, rtol=1e-6)
    assert true.grad is not None
    close = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}[dtype]
    torch.testing.assert_close(logits[:, :50].double(), true.grad, atol=1e-6, rtol=close)
    assert not logits[:, 50:].any()
    assert not logits[2].any()


def test_without_a_compiler_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(fused_softmax, "_compiled", lambda: broken)
    with pytest.raises(UserError, match=r"^--loss fused: .*\(no compiler\): take --loss chunked"):
        check_compiler(torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_full_or_lost_device_is_no_missing_compiler(
    kind: type[RuntimeError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise kind("the device")

    monkeypatch.setattr(fused_softmax, "_compiled", lambda: broken)
    with pytest.raises(kind):
        check_compiler(torch.device("cpu"), torch.bfloat16)
