"""The residual stream in bf16: near to that in fp32, in less memory, and in training alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gpt2 import evaluate, export, sample
from gpt2.config.actions import NoActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import ModelConfig
from gpt2.model.build import build_model
from gpt2.model.gpt import Block, Norm
from gpt2.model.loss import chunked_loss
from tests.model.test_gpt import config_of, some_ids
from tests.support import tiny

CPU = torch.device("cpu")
IN_BF16 = ("--precision", "bf16", "--residual-precision", "bf16")


def gradients(config: ModelConfig, ids: Tensor) -> dict[str, Tensor]:
    """Loss and gradients as in a step in bf16."""
    model = build_model(config, 60, CPU, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids, ids.roll(1))
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


def exact(config: ModelConfig, ids: Tensor) -> dict[str, Tensor]:
    """The same in float64."""
    model = build_model(config, 60, CPU, 0).double()
    logits = model.hidden(ids).flatten(0, 1) @ model.transformer.wte.weight.t()  # type: ignore[operator, union-attr]
    loss = F.cross_entropy(logits, ids.roll(1).flatten())
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The difference of all gradients, by the size of the wanted ones."""
    assert found.keys() == wanted.keys()
    square = {n: float((found[n].double() - wanted[n]).square().sum()) for n in wanted}
    whole = sum(float(wanted[n].square().sum()) for n in wanted if n != "loss")
    return (sum(v for n, v in square.items() if n != "loss") / whole) ** 0.5


@pytest.mark.parametrize(
    ("form", "loss"),
    [
        ("none", "chunked"),
        pytest.param("none", "full", marks=pytest.mark.slow),
        pytest.param("selective", "chunked", marks=pytest.mark.slow),
        pytest.param("full", "chunked", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_near_those_of_float64(form: str, loss: str) -> None:
    """Eight layers; the fp32 stream is as far off within a factor."""
    ids = some_ids(5, 12, 60)
    shape = {"n_layer": 8, "n_embd": 64, "activation_checkpointing": form, "loss": loss}
    shape["loss_chunk_mib"] = None if loss == "full" else 1
    wanted = exact(config_of(**shape), ids)
    stream = {
        name: gradients(config_of(**shape, residual_precision=name), ids)
        for name in ("fp32", "bf16")
    }
    far = {name: distance(found, wanted) for name, found in stream.items()}
    assert 0.0 < far["fp32"] < 0.01
    assert far["fp32"] < far["bf16"] < min(0.02, 3.0 * far["fp32"])
    for found in stream.values():
        assert float(found["loss"]) == pytest.approx(float(wanted["loss"]), abs=2e-3)
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_is_that_of_fp32_but_for_one_rounding(bias: bool) -> None:
    torch.manual_seed(0)
    norm = Norm(96, bias=bias)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 1.5)
    x = (10.0 * torch.randn(50, 96) + 3.0).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = norm(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), norm(x.float()), rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("form", ["none", "selective", "full"])
def test_a_block_keeps_two_bytes_less_of_its_input_and_of_its_middle(form: str) -> None:
    kept = {}
    for dtype in (torch.float32, torch.bfloat16):
        block = Block(config_of(activation_checkpointing=form, n_embd=64, block_size=128))
        held: dict[int, int] = {}
        alive: list[Tensor] = []

        def pack(
            tensor: Tensor, held: dict[int, int] = held, alive: list[Tensor] = alive
        ) -> Tensor:
            if tensor.shape[0] == 384:  # of the tokens, not of the weights
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        x = torch.randn(384, 64).to(dtype).requires_grad_() + 0.0
        autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        with autocast, saved_tensors_hooks(pack, lambda tensor: tensor):
            after = block(x, 3)
        assert after.dtype == dtype
        kept[dtype] = sum(held.values()) / x.numel()
    assert kept[torch.float32] - kept[torch.bfloat16] == (2 if form == "full" else 4)


def test_the_losss_gradient_of_16_bits_is_rounded_once() -> None:
    """Of 3 x 37 targets: 1 / 111 rounded to bf16 would be off by a factor of 1.0024."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(111, 32).bfloat16(), 0.2 * torch.randn(500, 32)
    targets = torch.randint(500, (111,))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        x = hidden.to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            chunked_loss(x, weight, targets, 16).backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype
        found.append(x.grad)
    assert torch.equal(found[1], found[0].bfloat16())


@pytest.mark.parametrize(
    ("dtype", "enabled", "stream"),
    [
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float16, True, torch.float32),
        (torch.bfloat16, False, torch.float32),
    ],
)
def test_only_products_in_bf16_have_such_a_stream(
    dtype: torch.dtype, enabled: bool, stream: torch.dtype
) -> None:
    """In fp16, evaluate.py would mix both formats."""
    model = build_model(config_of(residual_precision="bf16"), 60, CPU, 0).eval()
    seen: list[torch.dtype] = []
    block = next(module for module in model.modules() if isinstance(module, Block))
    block.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=enabled):
        model.hidden(some_ids(2, 8, 60))  # type: ignore[operator]
    assert seen == [stream]


def configured(*flags: str) -> ModelConfig:
    return bind(parse("train.py", "", list(flags), NoActions)[0]).model


@pytest.mark.parametrize("precision", ["fp32", "fp16", "auto"])
def test_it_needs_products_in_bf16(precision: str) -> None:
    with pytest.raises(UserError, match=r"--residual-precision .*needs .*--precision bf16"):
        configured("--precision", precision, *IN_BF16[2:])
    assert configured(*IN_BF16).residual_precision == "bf16"
    assert configured("--precision", "bf16").residual_precision == "fp32"
    assert configured("--precision", precision).residual_precision is None


@pytest.mark.slow
def test_a_run_trains_resumes_and_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the same bits after a stop; it prunes; sampling and exports are those of any run."""
    data = tiny.make_data(tmp_path / "data")
    more = (*IN_BF16, "--max-steps", "30", "--learning-rate", "1e-2", "--n-embd", "32")
    more += ("--pruning-method", "magnitude", "--checkpoint-interval", "10")
    more += ("--activation-checkpointing", "full")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert tiny.train(data, whole, *more) == Exit.OK
    losses = [line["loss"] for line in tiny.metrics(whole) if "loss" in line]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert tiny.train_process(data, run, *more, fault="checkpoint.rename:kill:2").returncode == -9
    with pytest.raises(UserError, match="--residual-precision"):
        tiny.train(data, run, *more, "--residual-precision", "fp32")
    assert tiny.train(data, run, *more) == Exit.OK
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(whole)
    capsys.readouterr()
    summary = json.loads((run / "summary.json").read_text())
    assert evaluate.main(["--run", str(run)]) == Exit.OK
    assert f"loss {summary['val_loss']:.6f}" in capsys.readouterr().out
    assert sample.main(["--run", str(run), "--prompt", "to", "--tokens", "5"]) == Exit.OK
    assert capsys.readouterr().out.startswith("to")
    assert export.main(["--run", str(run), "--out", str(tmp_path / "out")]) == Exit.OK


@pytest.mark.long
def test_compiled_it_computes_the_same() -> None:
    """In one graph: the compiler sees which format autocast has."""
    ids = some_ids(3, 12, 60)
    config = config_of(residual_precision="bf16", loss="chunked", loss_chunk_mib=1)
    plain = gradients(config, ids)
    model = build_model(config, 60, CPU, 0)
    model.body.compile(fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids, ids.roll(1))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, plain[name], rtol=0.05, atol=2e-3)
