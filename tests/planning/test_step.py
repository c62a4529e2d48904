"""The planned step against steps that are made: on CPU tensors, followed in the same way."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gpt2.config.typed import Config
from gpt2.model.build import build_model
from gpt2.model.loss import chunk_rows, rows_within
from gpt2.optim.precision import DTYPES, resolve_precision
from gpt2.planning import plan as planning
from gpt2.planning import probe
from gpt2.planning.bound import bound_of
from gpt2.planning.follow import Follow
from gpt2.planning.plan import _step_shape, plan
from gpt2.planning.step import peak_of
from gpt2.planning.step_shape import StepShape
from gpt2.planning.trace import trace
from gpt2.training.assembly import build_optimizer
from tests.support.planning import configured

SHAPE = "--model custom --n-layer 3 --n-head 4 --n-embd 64 --block-size 64 --device cpu "
VOCABULARY = 512


def planned(config: Config, vocabulary: int = VOCABULARY) -> StepShape:
    return plan(config, vocabulary).shape


def step(
    config: Config,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    follow: Follow | None = None,
) -> None:
    """One step as the loop makes it, on numbers that do not matter."""
    train, length = config.train, config.model.block_size
    dtype = DTYPES[resolve_precision(config.optim.precision, torch.device("cpu"))]
    for _ in range(train.gradient_accumulation):
        ids = torch.zeros(train.batch_size, length, dtype=torch.int64)
        targets = torch.zeros_like(ids)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = model(ids, targets) / train.gradient_accumulation
        if follow is not None:
            follow.backward = True
        loss.backward()
        if follow is not None:
            follow.backward = False
        del loss
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def followed(config: Config, vocabulary: int = VOCABULARY) -> int:
    """Peak bytes of the second step of a model of true numbers."""
    model = build_model(config.model, vocabulary, torch.device("cpu"), 0)
    with Follow(model.parameters()) as follow:
        optimizer = build_optimizer(config, model)
        step(config, model, optimizer, follow)
        follow.ledger.begin("second step")
        step(config, model, optimizer, follow)
    return follow.ledger.highest + 4 * model.parameter_count()


def allocated(config: Config, vocabulary: int = VOCABULARY) -> int:
    """The same by torch's profiler: what its allocator was asked for, with no mode in the way."""
    model = build_model(config.model, vocabulary, torch.device("cpu"), 0)
    optimizer = build_optimizer(config, model)
    step(config, model, optimizer)
    state = sum(
        value.nbytes
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor)
    )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(config, model, optimizer)
    result = profiler.profiler
    assert result is not None
    assert result.kineto_results is not None
    events = [e for e in result.kineto_results.events() if e.name() == "[memory]"]
    changes = (e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(itertools.accumulate(changes)) + 4 * model.parameter_count() + state


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


def cell(precision: str, checkpointing: str, rest: str, accumulation: str = "1") -> Config:
    return configured(
        f"{SHAPE} --batch-size 16 --precision {precision} {rest} "
        f"--activation-checkpointing {checkpointing} --gradient-accumulation {accumulation}"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "checkpointing", "rest", "accumulation"), GRID)
def test_peak_is_that_of_a_step_that_is_made(
    precision: str, checkpointing: str, rest: str, accumulation: str
) -> None:
    config = cell(precision, checkpointing, rest, accumulation)
    peak = peak_of(planned(config)).total
    assert peak == pytest.approx(followed(config), rel=0.01)
    assert bound_of(planned(config)).total > peak


# Where the moment of the peak moves: with depth to the other end of the backward pass, and with a
# wide vocabulary to the loss.
SOME = (("fp32", "full"), ("bf16", "none"))  # the others in check-all
DEEP = [
    pytest.param(
        layers,
        vocabulary,
        precision,
        checkpointing,
        marks=pytest.mark.slow if (precision, checkpointing) in SOME else pytest.mark.long,
    )
    for layers, vocabulary in ((12, VOCABULARY), (48, VOCABULARY), (3, 50257), (12, 50257))
    for precision in ("fp32", "bf16")
    for checkpointing in ("none", "selective", "full")
]


@pytest.mark.parametrize(("layers", "vocabulary", "precision", "checkpointing"), DEEP)
def test_peak_holds_for_deep_models_and_wide_vocabularies(
    layers: int, vocabulary: int, precision: str, checkpointing: str
) -> None:
    config = cell(precision, checkpointing, f"--dropout 0 --batch-size 4 --n-layer {layers}")
    peak = peak_of(planned(config, vocabulary)).total
    assert peak == pytest.approx(followed(config, vocabulary), rel=0.01)
    assert bound_of(planned(config, vocabulary)).total > peak


@pytest.mark.parametrize("checkpointing", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_a_residual_stream_in_bf16_is_planned(checkpointing: str) -> None:
    line = "--dropout 0 --batch-size 16 --n-layer 4"
    peaks = []
    for residual in ("fp32", "bf16"):
        config = cell("bf16", checkpointing, f"{line} --residual-precision {residual}")
        peak = peak_of(planned(config)).total
        assert peak == pytest.approx(followed(config), rel=0.01)
        assert bound_of(planned(config)).total > peak
        peaks.append(peak)
    assert peaks[1] < peaks[0]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rest", FORMS)
def test_form_of_a_gpu_holds_for_more_layers(rest: str, precision: str, batch: int) -> None:
    """Seven layers at once, of true numbers, take what one and two of fake ones say."""
    line = f"{SHAPE} {rest} --n-layer 7 --batch-size {batch} --precision {precision}"
    shape = plan(configured(line), VOCABULARY, plan_for=10**12, bounds=True).shape
    for checkpointing in ("none", "selective", "full"):
        blank = dataclasses.replace(shape, checkpointing=checkpointing, state=0, step=0, event=0)
        phases = trace(blank, fake=False).phases.values()
        highest = max(phases, key=lambda phase: sum(phase.peak))
        peak = peak_of(blank)
        assert peak.total == pytest.approx(sum(highest.peak), rel=0.01)
        assert peak.phase == highest.name
        assert bound_of(blank).total > peak.total


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", ["1", "2"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_peak_is_what_the_allocator_gives(
    precision: str, checkpointing: str, accumulation: str
) -> None:
    """Sums in place and copies inside of operations included, which no mode sees."""
    config = cell(precision, checkpointing, "--dropout 0 --n-embd 128", accumulation)
    # oneDNN takes scratch for 16-bit products, by the CPU and its threads: below 1 MiB for these.
    scratch = 2**20 if precision == "bf16" else None
    expected = pytest.approx(allocated(config), rel=0.01, abs=scratch)
    assert peak_of(planned(config)).total == expected


@pytest.mark.long
@pytest.mark.parametrize("layers", [1, 12])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_peak_is_what_the_allocator_gives_for_a_wide_vocabulary(
    precision: str, layers: int
) -> None:
    """A CPU copies logits, and the gradient of the head, to sum them in fp32."""
    line = f"--dropout 0 --n-embd 128 --batch-size 2 --n-layer {layers}"
    config = cell(precision, "selective", line)
    peak = peak_of(planned(config, 50257)).total
    assert peak == pytest.approx(allocated(config, 50257), rel=0.01)
    assert bound_of(planned(config, 50257)).total > peak


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_card_without_fused_attention_holds_the_matrix(
    dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch takes on the card is asked of it, as ROCm can have no fused kernel."""
    taken = iter(("flash", "math"))
    monkeypatch.setattr(planning, "kernel_chosen", lambda *_: next(taken))
    config = configured(f"--batch-size 8 --dropout {dropout} --precision bf16")
    fused, plain = (
        _step_shape(config, 50257, torch.device("cuda"), "bf16", there=True) for _ in range(2)
    )
    assert (fused.attention, plain.attention) == ("fused", "math")
    more = peak_of(plain).total - peak_of(fused).total
    matrix = 8 * 12 * 256**2  # (B, H, T, T), in each of 12 layers
    assert more > 4 * 12 * matrix
    assert bound_of(plain).total > peak_of(plain).total


def test_a_large_chunk_of_bf16_counts_the_copy_inside_log_softmax() -> None:
    line = "--dropout 0 --batch-size 64 --block-size 256 --loss-chunk-mib"
    small, large = (
        peak_of(plan(configured(f"{line} {mib}"), 50257, plan_for=10**12, bounds=True).shape)
        for mib in (64, 1024)
    )
    assert large.phase == "loss"
    rows = chunk_rows(64 * 256, rows_within(1024, 50257), half=False)
    # In bf16, fp32 and fp32 once more, of rows that are padded to a multiple of 64.
    assert large.held["logits"] == 10 * rows * 50304
    assert large.total > small.total + 1.5e9


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd", "adamwspam"])
def test_peak_holds_for_optimizers(optimizer: str) -> None:
    config = configured(f"{SHAPE} --optimizer {optimizer} --dropout 0 --batch-size 1 --n-embd 128")
    assert peak_of(planned(config)).total == pytest.approx(followed(config), rel=0.01)


@pytest.mark.slow
# GB of temporary tensors in a step of GPT-2 124M: torch updates all parameters at once on CUDA.
@pytest.mark.parametrize(
    ("optimizer", "on_cpu", "on_cuda"),
    [("adagrad", 0.155, 0.679), ("rmsprop", 0.155, 0.340), ("adamw", 0.0, 0.0)],
)
def test_optimizers_update_all_parameters_at_once_on_cuda(
    optimizer: str, on_cpu: float, on_cuda: float
) -> None:
    config = configured(f"--optimizer {optimizer}")
    for device, expected in (("cpu", on_cpu), ("cuda", on_cuda)):
        temporary = probe.of_optimizer(config, 50257, device)[1]
        assert temporary / 1e9 == pytest.approx(expected, abs=0.002)


# What is asked of gpt2 under bf16 with AdamW, GB allocated, by context, batch, checkpointing.
TARGETS = [
    *(("none", 256, b, most) for b, most in zip((32, 64, 96, 128), (5, 8, 11, 13.5), strict=True)),
    *(("selective", 256, b, m) for b, m in zip((32, 64, 96, 128), (4.3, 6.1, 8, 10), strict=True)),
    *(("full", 256, b, m) for b, m in zip((32, 64, 96, 128), (3, 3.5, 4.1, 4.7), strict=True)),
    ("full", 1024, 32, 4.7),
]


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "block", "batch", "most"), TARGETS)
def test_published_model_takes_no_more_than_promised(
    checkpointing: str, block: int, batch: int, most: float
) -> None:
    assert peak_of(gpt2(checkpointing, block, batch)).total <= most * 1e9


def test_moments_in_bf16_take_half_the_state() -> None:
    shape = gpt2("full", 1024, 32)
    half = dataclasses.replace(shape, state=shape.state // 2)
    assert peak_of(half).total <= 4.2e9


@pytest.mark.slow
def test_more_work_never_takes_less() -> None:
    least = gpt2("none", 64, 1)
    before = peak_of(least).total
    for change in ({"batch": 2}, {"block": 128}, {"layers": 13}, {"accumulated": True}):
        assert peak_of(dataclasses.replace(least, **change)).total > before, change
    peaks = [peak_of(gpt2(kind, 256, 32)).total for kind in ("none", "selective", "full")]
    assert peaks == sorted(peaks, reverse=True)


def test_tracing_leaves_the_random_generator_and_kernels_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    shape = planned(cell("fp32", "full", "--dropout 0.1"))
    trace(dataclasses.replace(shape, attention="math"))
    assert before.equal(torch.get_rng_state())
    assert torch.backends.cuda.flash_sdp_enabled()


def gpt2(checkpointing: str, block: int, batch: int) -> StepShape:
    """The step of GPT-2 124M with AdamW, on a GPU."""
    config = configured(
        f"--block-size {block} --batch-size {batch} --dropout 0 "
        f"--activation-checkpointing {checkpointing} --loss-chunk-mib 64"
    )
    shape = plan(config, 50257, plan_for=80_000_000_000, bounds=True).shape
    return dataclasses.replace(shape, state=8 * shape.parameters, step=0)
