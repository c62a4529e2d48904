"""A step in the form of a GPU, counted, and what it would take on cards that nobody asked."""

from __future__ import annotations

import functools

import pytest

from gpt2.config.actions import NoActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.typed import Config
from scripts.benchmark import roofline
from scripts.benchmark.traffic import Kernel, Traffic, count, count_update

#: A step of version 1 (19691df) by the same counter, plain and compiled: `docs/benchmarks.md`.
OPERATIONS, MOVED, JOINED = 8_670, 405.8e9, 371.1e9


def config_of(*flags: str) -> Config:
    shape = ["--dataset", "text", "--tokenizer", "gpt2", "--dropout", "0"]
    return bind(parse("test", "", [*shape, *flags], NoActions)[0])


@functools.cache
def counted(*flags: str, compiled: bool) -> Traffic:
    big = config_of("--model", "gpt2", "--batch-size", "64", "--loss", "fused", *flags)
    return count(big, 50257, "bf16", compiled=compiled)


def test_a_step_of_gpt2_is_few_operations() -> None:
    """The goal of at most 1,500 operations; that of half of the bytes needs a bf16 residual."""
    plain = counted(compiled=False)
    assert plain.operations <= 1_500 < OPERATIONS / 5
    assert plain.moved <= 0.59 * MOVED
    joined = counted(compiled=True)
    assert joined.operations == plain.operations
    assert joined.moved <= 0.55 * JOINED
    assert joined.flops == plain.flops
    # Forward and backward: 6 for each weight of a product and token; causal attention 7/6 of its
    # model, whose backward pass makes the scores again.
    tokens, d, layers, length = 64 * 1024, 768, 12, 1024
    padded = 50_304 * d
    products = 6 * tokens * (layers * 12 * d * d + padded)
    attention = 7 * tokens * layers * d * length
    assert plain.flops == pytest.approx(products + attention)


@pytest.mark.parametrize(("compiled", "before"), [(False, MOVED), (True, JOINED)])
def test_with_a_residual_stream_in_bf16_it_moves_half(compiled: bool, before: float) -> None:
    half = counted("--precision", "bf16", "--residual-precision", "bf16", compiled=compiled)
    assert half.operations <= 1_500
    assert half.moved <= 0.5 * before
    assert half.flops == counted(compiled=compiled).flops


def test_counting_by_hand_agrees() -> None:
    """One product of a tiny model, and its bytes: read twice, written once."""
    small = config_of("--model", "custom", "--n-layer", "1", "--n-head", "2", "--n-embd", "64",
                      "--block-size", "16", "--batch-size", "4", "--no-bias")  # fmt: skip
    found = count(small, 100, "bf16", compiled=False)
    products = [kernel for kernel in found.kernels if kernel.name == "mm" and not kernel.loss]
    tokens, d = 64, 64
    up = 2 * (tokens * d + 4 * d * d + tokens * 4 * d)  # bf16
    assert any(k.moved == up and k.flops == 2 * tokens * d * 4 * d for k in products)
    joined = count(small, 100, "bf16", compiled=True)
    assert joined.moved < found.moved
    assert len(joined.kernels) < len(found.kernels)


def test_a_kernel_takes_the_longer_of_its_two_times() -> None:
    kernels = [Kernel("bound by products", 1, 200.0), Kernel("bound by memory", 30, 1.0)]
    traffic = Traffic(kernels, 2)
    assert traffic.seconds(100.0, 10.0) == 2.0 + 3.0
    assert (traffic.moved, traffic.flops) == (31, 201.0)


@pytest.mark.slow
def test_predictions_are_below_the_shares_they_assume(capsys: pytest.CaptureFixture[str]) -> None:
    found = roofline.predict(config_of("--model", "gpt2", "--batch-size", "64", "--compile"))
    speeds = [found["cards"][name]["tokens_per_second"] for name in ("L4", "A100", "H100", "H200")]
    assert speeds == sorted(speeds)
    assert all(card["fits"] == (name != "L4") for name, card in found["cards"].items())
    assert all(0.1 < card["mfu"] < 1.2 * roofline.PRODUCTS for card in found["cards"].values())
    # Of 32 x 256 tokens, the optimizer's part counts once, a micro-step's twice.
    one, two = (
        roofline.predict(config_of("--model", "gpt2", "--block-size", "256",
                                   "--gradient-accumulation", str(n)))
        for n in (1, 2)
    )  # fmt: skip
    assert two["flops"] == 2 * one["flops"]
    assert one["bytes"] < two["bytes"] < 2.2 * one["bytes"]


def test_the_gpu_defconfigs_are_those_that_compile() -> None:
    names = {path.name for path in roofline.gpu_defconfigs()}
    assert {"gpt2-fineweb-edu-h100", "gpt2-shakespeare-l4", "gpt2-shakespeare-w7900"} <= names
    assert not any("cpu" in name for name in names)


def test_an_update_with_moments_in_bf16_is_few_operations() -> None:
    """Of AdamW over gpt2: 2,602 operations and 30.4 GB before the rounding was one kernel."""
    half = config_of("--model", "gpt2", "--optimizer-state-precision", "bf16")
    parameters = 124_439_808
    compiled, plain = (count_update(half, 50257, compiled=way) for way in (True, False))
    assert compiled.operations <= 850
    # Moments read, widened and narrowed (2 x 2 x 3 numbers' bytes), fp32 for the rounding, and
    # the update itself: weights, gradients and both moments read, all but gradients written.
    assert compiled.moved / parameters == pytest.approx(60.0, rel=1e-3)
    assert plain.operations <= 1_500
    assert plain.moved / parameters < 226.0
    whole = count_update(config_of("--model", "gpt2"), 50257, compiled=False)
    assert whole.moved / parameters == pytest.approx(28.0, rel=1e-3)
    assert whole.operations < 20
