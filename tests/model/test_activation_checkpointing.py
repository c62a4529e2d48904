"""Activation checkpointing: the same numbers, less memory, and only the work that it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from gpt2.config.errors import Exit
from gpt2.config.typed import ModelConfig
from gpt2.model.build import build_model
from gpt2.model.gpt import GPT, Block
from tests.model.test_gpt import config_of, some_ids
from tests.support import tiny

FORMS = ("none", "selective", "full")
CPU = torch.device("cpu")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def gradients(config: ModelConfig, precision: str = "fp32") -> dict[str, Tensor]:
    """Loss, gradients of two micro-batches that add up, and the random state after them."""
    model, ids = build_model(config, 60, CPU, 0), some_ids(3, 12, 60)
    torch.manual_seed(5)
    for micro in (ids, ids.flip(0, 1)):
        dtype = PRECISIONS[precision]
        with torch.autocast("cpu", dtype=dtype, enabled=precision != "fp32"):
            loss = model(micro, micro.roll(1))
        loss.backward()
    found = {"loss": loss.detach(), "random": torch.get_rng_state()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found[name] = parameter.grad
    return found


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("flash", [True, False])
def test_gradients_are_the_same_to_the_bit(
    form: str, precision: str, dropout: float, flash: bool
) -> None:
    def config(form: str) -> ModelConfig:
        return config_of(activation_checkpointing=form, dropout=dropout, flash_attention=flash)

    expected, found = gradients(config("none"), precision), gradients(config(form), precision)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def kept(form: str, precision: str, dropout: float = 0.0) -> float:
    """Bytes that a block keeps of its activations, by its input's size (N, d) in numbers."""
    block = Block(
        config_of(activation_checkpointing=form, n_embd=64, block_size=128, dropout=dropout)
    )
    with torch.autocast("cpu", dtype=PRECISIONS[precision], enabled=precision != "fp32"):
        cast = {tuple(weight.t().shape) for weight in block.parameters() if weight.ndim == 2}
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            weight = isinstance(tensor, torch.nn.Parameter) or tuple(tensor.shape) in cast
            held[storage.data_ptr()] = 0 if weight else storage.nbytes()
            alive.append(tensor)
            return tensor

        alive: list[Tensor] = []
        x = torch.randn(3 * 128, 64, requires_grad=True) + 0.0
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            block(x, 3)
    return sum(held.values()) / x.numel()


#: Besides, of each token: mean and deviation of two norms, and one number for each of two heads.
NORMS, HEADS = 16 / 64, 4 * 2 / 64


@pytest.mark.parametrize(
    ("form", "precision", "size"),
    [
        ("none", "fp32", 64 + NORMS + HEADS),
        ("none", "bf16", 36 + NORMS + HEADS),
        ("selective", "fp32", 40 + HEADS),
        ("selective", "bf16", 24 + HEADS),
        ("full", "fp32", 4),
        ("full", "bf16", 4),
    ],
)
def test_what_a_block_keeps(form: str, precision: str, size: float) -> None:
    assert kept(form, precision) == size


def test_only_what_it_says_is_computed_again() -> None:
    """Selective repeats no product; full repeats all of a block but its last."""
    products = {}
    for form in FORMS:
        # Written out: the counter does not know a CPU's kernel for attention.
        config = config_of(activation_checkpointing=form, n_layer=3, flash_attention=False)
        model, ids = GPT(config, 60), some_ids(2, 12, 60)
        with FlopCounterMode(display=False) as counter:
            model(ids, ids.roll(1)).backward()
        products[form] = counter.get_total_flops()
    assert products["selective"] == products["none"]
    sequences, heads, length, width = 2, 2, 12, 16
    linear = 2 * sequences * length * (3 + 1 + 4) * width**2
    attention = 2 * sequences * heads * (2 * length**2 * (width // heads))
    assert products["full"] - products["none"] == 3 * (linear + attention)


@pytest.mark.parametrize("form", FORMS)
def test_without_gradients_nothing_is_made_ready_to_be_repeated(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2.model.gpt.checkpoint", lambda *_, **__: pytest.fail("checkpointed"))
    model = GPT(config_of(activation_checkpointing=form), 60).eval()
    with torch.no_grad():
        model.logits(some_ids(1, 5, 60))


@pytest.mark.slow
def test_a_run_may_go_on_with_another_form(tmp_path: Path) -> None:
    """To the same bits, under dropout and accumulation."""
    data = tiny.make_data(tmp_path / "data")
    more = ("--max-steps", "4", "--checkpoint-interval", "1", "--dropout", "0.1")
    more += ("--gradient-accumulation", "2")
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    run = tmp_path / "run"
    full = (*more, "--activation-checkpointing", "full")
    stopped = tiny.train_process(data, run, *full, fault="checkpoint.rename:kill:3")
    assert stopped.returncode == -9
    assert tiny.train(data, run, *more, "--activation-checkpointing", "selective") == Exit.OK
    assert tiny.metrics(run) == tiny.metrics(tmp_path / "whole")
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(tmp_path / "whole")
