"""The shadow of a step against torch's own MemTracker, over the grid of all that changes it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from gpt2.config.typed import Config
from gpt2.model.build import build_model
from gpt2.model.gpt import GPT
from gpt2.planning import probe
from gpt2.planning.plan import plan
from gpt2.planning.replay.ledger import Ledger
from gpt2.planning.replay.shape import Work
from gpt2.planning.replay.step import peak_of
from gpt2.training.assembly import build_optimizer
from tests.support.planning import configured

SHAPE = "--model custom --n-layer 3 --n-head 4 --n-embd 64 --block-size 64 --device cpu "
VOCABULARY = 512


def planned(config: Config, vocabulary: int = VOCABULARY) -> Work:
    return plan(config, vocabulary).work


def step(
    config: Config,
    model: GPT,
    optimizer: torch.optim.Optimizer,
    between: Callable[[], None] = lambda: None,
) -> None:
    """One step as the loop makes it, on numbers that do not matter; `between` its micro-steps."""
    train, length = config.train, config.model.block_size
    mixed = config.optim.precision == "bf16"
    for _ in range(train.gradient_accumulation):
        ids = torch.zeros(train.batch_size, length, dtype=torch.int64)
        targets = torch.zeros_like(ids)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            loss = model(ids, targets) / train.gradient_accumulation
        loss.backward()
        del loss
        between()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def tracked(config: Config, vocabulary: int = VOCABULARY) -> int:
    """Peak bytes of the second step, by MemTracker on fake tensors."""
    with FakeTensorMode():
        model = GPT(config.model, vocabulary)
        optimizer = build_optimizer(config, model)
        step(config, model, optimizer)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            step(config, model, optimizer, tracker.reset_mod_stats)
        (peak,) = (kinds["Total"] for kinds in tracker.get_tracker_snapshot("peak").values())
    return int(peak)


FORMS = (
    "--dropout 0",
    "--dropout 0.1",
    "--dropout 0 --no-flash-attention",
    "--dropout 0.1 --no-flash-attention",
    "--dropout 0 --loss full",
    "--dropout 0 --loss-chunk-mib 1 --no-bias",
)
GRID = [
    (precision, checkpointing, rest, accumulation)
    for precision, checkpointing, rest in itertools.product(
        ("fp32", "bf16"), ("none", "selective", "full"), FORMS
    )
    # What is accumulated does not depend on the form of the rest.
    for accumulation in (("1", "2") if rest == FORMS[0] else ("1",))
]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "checkpointing", "rest", "accumulation"), GRID)
def test_peak_is_that_of_the_memory_tracker(
    precision: str, checkpointing: str, rest: str, accumulation: str
) -> None:
    config = configured(
        f"{SHAPE} {rest} --batch-size 16 --precision {precision} "
        f"--activation-checkpointing {checkpointing} --gradient-accumulation {accumulation}"
    )
    # Fake tensors are never summed in place.
    assert peak_of(planned(config), in_place=False).total == pytest.approx(
        tracked(config), rel=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd", "adamwspam"])
def test_peak_holds_for_optimizers(optimizer: str) -> None:
    config = configured(f"{SHAPE} --optimizer {optimizer} --dropout 0 --batch-size 1 --n-embd 128")
    assert peak_of(planned(config), in_place=False).total == pytest.approx(
        tracked(config), rel=0.01
    )


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("dropout", ["0.0", "0.1"])
def test_peak_of_real_tensors_is_summed_in_place(checkpointing: str, dropout: str) -> None:
    config = configured(
        f"{SHAPE} --activation-checkpointing {checkpointing} --dropout {dropout} --batch-size 8 "
        "--precision fp32"
    )
    model = build_model(config.model, VOCABULARY, torch.device("cpu"), 0)
    optimizer = build_optimizer(config, model)
    gauge = probe.Gauge(*model.parameters())
    with gauge:
        step(config, model, optimizer)
        gauge.reset()
        step(config, model, optimizer)
    real = gauge.peak + 4 * model.parameter_count()
    assert peak_of(planned(config)).total == pytest.approx(real, rel=0.01)


@pytest.mark.slow
def test_peak_of_the_published_model_is_that_of_the_memory_tracker() -> None:
    config = configured("--batch-size 8 --dropout 0 --precision bf16 --device cpu")
    assert peak_of(planned(config, 50257), in_place=False).total == pytest.approx(
        tracked(config, 50257), rel=0.01
    )


# What is asked of gpt2 under bf16 with AdamW, GB allocated, by context, batch, checkpointing.
TARGETS = [
    *(("none", 256, b, most) for b, most in zip((32, 64, 96, 128), (5, 8, 11, 13.5), strict=True)),
    *(("selective", 256, b, m) for b, m in zip((32, 64, 96, 128), (4.3, 6.1, 8, 10), strict=True)),
    *(("full", 256, b, m) for b, m in zip((32, 64, 96, 128), (3, 3.5, 4.1, 4.7), strict=True)),
    ("full", 1024, 32, 4.7),
]


@pytest.mark.parametrize(("checkpointing", "block", "batch", "most"), TARGETS)
def test_published_model_takes_no_more_than_promised(
    checkpointing: str, block: int, batch: int, most: float
) -> None:
    assert peak_of(gpt2(checkpointing, block, batch)).total <= most * 1e9


def test_moments_in_bf16_take_half_the_state() -> None:
    work = gpt2("full", 1024, 32)
    half = dataclasses.replace(work, state=work.state // 2)
    assert peak_of(half).total <= 4.2e9


def test_more_work_never_takes_less() -> None:
    least = gpt2("none", 64, 1)
    before = peak_of(least).total
    for change in ({"batch": 2}, {"block": 128}, {"layers": 13}, {"accumulated": True}):
        assert peak_of(dataclasses.replace(least, **change)).total > before, change
    peaks = [peak_of(gpt2(kind, 256, 32)).total for kind in ("none", "selective", "full")]
    assert peaks == sorted(peaks, reverse=True)


def gpt2(checkpointing: str, block: int, batch: int) -> Work:
    """The step of GPT-2 124M with AdamW, on a GPU."""
    config = configured(
        f"--block-size {block} --batch-size {batch} --dropout 0 "
        f"--activation-checkpointing {checkpointing}"
    )
    work = plan(config, 50257, plan_for=80_000_000_000, bounds=True).work
    return dataclasses.replace(work, state=8 * work.parameters, step=0)


def test_ledger_refuses_to_give_what_was_not_taken() -> None:
    ledger = Ledger()
    ledger.take("masks", 1)
    with pytest.raises(AssertionError, match="more masks"):
        ledger.give("masks", 2)
