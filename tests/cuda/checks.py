"""Checks on a card, in one process: parity with the CPU, syncs, skipped steps, memory.

python3 tests/cuda/checks.py [cuda|cpu], in the repository's root; on a CPU it checks itself. The
results go to $OUT/checks.json where OUT is set. The exit code is 1 where a check failed.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from gpt2.config.actions import NoActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.machine import device as machine
from gpt2.machine.out_of_memory import is_exhaustion, release
from gpt2.model.attention import flash_attention, kernel_taken
from gpt2.model.loss import chunked_loss, full_loss, rows_within
from gpt2.optim.stochastic_rounding import (
    moments_by_formula,
    offset,
    random_bits,
    rounded_moments,
)
from gpt2.prune import masks, topk
from scripts.benchmark.contestants import Ours, synthetic_tokens

DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
CPU = torch.device("cpu")
CUDA = DEVICE.type == "cuda"
#: A model with ids; on a CPU, where only the checks are checked, a smaller one.
_SHAPE = "--n-layer 3 --n-embd 256 --block-size 64"
if not CUDA:
    _SHAPE = "--n-layer 1 --n-embd 64 --block-size 32"
VOCABULARY = 5003 if CUDA else 503
SMALL = (
    f"--dataset text --tokenizer gpt2 --model custom --n-head 4 {_SHAPE} --batch-size 8 "
    "--dropout 0 --num-workers 1"
)
OPTIMIZERS = (
    "adamw",
    "adamw --optimizer-state-precision bf16",
    "adamwadv",
    "muon",
    "sgd",
    "adamwspam",
    "lion",
    "adafactor",
)
WORST = {torch.float32: 2e-3, torch.bfloat16: 2e-2, torch.float16: 5e-3}
RESULTS: dict[str, Any] = {}


def check(name: str) -> Callable[[Callable[[], Any]], None]:
    """Run the decorated function at once, and keep what it returns or how it failed."""

    def run(function: Callable[[], Any]) -> None:
        start = time.time()
        try:
            RESULTS[name] = function()
        except Exception as error:
            RESULTS[name] = f"FAILED {type(error).__name__}: {str(error)[:300]}"
            traceback.print_exc()
        print(f"{name}: {RESULTS[name]}  [{time.time() - start:.1f} s]", flush=True)

    return run


def ours(
    flags: str, precision: str, device: torch.device = DEVICE, vocabulary: int = VOCABULARY
) -> Ours:
    """A small model ready to train, with `flags` of train.py."""
    config = bind(parse("checks.py", "", [*SMALL.split(), *flags.split()], NoActions)[0])
    machine.prepare(config.machine, precision, 1)
    return Ours(config, synthetic_tokens(config, vocabulary), device, precision)


@check("loss: chunked against full in float64, worst relative error of loss, d hidden, d weight")
def _() -> Any:
    torch.manual_seed(0)
    count, width = (1000, 256) if CUDA else (100, 64)
    hidden = torch.randn(count, width, device=DEVICE)
    weight = torch.randn(VOCABULARY, width, device=DEVICE) * 0.05
    targets = torch.randint(VOCABULARY, (count,), device=DEVICE)
    targets[::7] = -100

    def run(loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype | None) -> list[Tensor]:
        inputs = (
            t.clone().to(torch.float64 if dtype is None else t.dtype).requires_grad_()
            for t in (hidden, weight)
        )
        a, b = inputs
        mixed = dtype in (torch.bfloat16, torch.float16)
        lower = dtype if mixed else torch.bfloat16
        with torch.autocast(DEVICE.type, dtype=lower, enabled=mixed):
            out = loss(a, b)
        out.backward()  # type: ignore[no-untyped-call]
        assert a.grad is not None
        assert b.grad is not None
        return [t.double().cpu() for t in (out.detach(), a.grad, b.grad)]

    def exact(a: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(a @ b.t(), targets, ignore_index=-100)

    wanted = run(exact, None)
    found = {}
    for dtype, worst in WORST.items():
        forms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            f"chunked, {mib} MiB": lambda a, b, mib=mib: chunked_loss(
                a, b, targets, rows_within(mib, VOCABULARY)
            )
            for mib in (1, 64)
        }
        forms["full"] = lambda a, b: full_loss(a, b, targets)
        if CUDA:  # where it is compiled by Triton, and the head is padded
            forms["fused, 64 MiB"] = lambda a, b: chunked_loss(
                a, b, targets, rows_within(64, VOCABULARY, half=True), fused=True
            )
        for name, loss in forms.items():
            got = run(loss, dtype)
            errors = [float((g - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True)]
            assert max(errors) < worst, (dtype, name, errors)
            found[f"{dtype}, {name}"] = [f"{error:.1e}" for error in errors]
    return found


@check("training in fp32: loss of step 6 on this device and on the CPU")
def _() -> Any:
    found = {}
    for flags in OPTIMIZERS:
        last = []
        for device in (DEVICE, CPU):
            one = ours(f"--optimizer {flags}", "fp32", device)
            one.run(5)
            last.append(float(one.loss(*one.parts.batches.train(5, 0)).detach()))
            one.close()
        found[flags] = [round(value, 5) for value in last]
        # Muon's products run in bf16 on CUDA and in fp32 on a CPU.
        assert abs(last[0] - last[1]) < (5e-2 if flags == "muon" else 2e-3), (flags, last)
    return found


@check("training in bf16: loss of step 6 with the residual stream in fp32 and in bf16")
def _() -> Any:
    last = []
    for residual in ("fp32", "bf16"):
        one = ours(f"--precision bf16 --residual-precision {residual}", "bf16")
        one.run(5)
        with one.parts.precision.autocast():
            last.append(float(one.loss(*one.parts.batches.train(5, 0)).detach()))
        one.close()
    assert last[0] != last[1], last
    assert abs(last[0] - last[1]) < 2e-2, last
    return [round(value, 5) for value in last]


@check("no host sync in a step (torch.cuda.set_sync_debug_mode)")
def _() -> Any:
    pruned = "--pruning-method magnitude --pruning-start 0.0 --pruning-end 1.0"
    resets = "--adamwspam-interval 2 --adamwspam-warmup 1 --adamwspam-theta 0"
    cases = [(flags, "bf16") for flags in (*OPTIMIZERS, f"adamwspam {resets}")]
    cases += [("adamw", "fp16"), ("adamw --spike skip", "bf16"), (f"adamw {pruned}", "bf16")]
    found = {}
    for flags, precision in cases:
        one = ours(f"--optimizer {flags}", precision)
        one.run(3)
        if pruned in flags:
            one.parts.pruner.apply(1, 1.0)
        if CUDA:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            one.run(3)
            found[f"{flags}, {precision}"] = "none"
        except RuntimeError as error:
            found[f"{flags}, {precision}"] = str(error)[:200]
        finally:
            if CUDA:
                torch.cuda.set_sync_debug_mode("default")
            one.close()
    assert set(found.values()) == {"none"}, found
    return found


@check("a skipped step changes no bit of weights and optimizer state")
def _() -> Any:
    for flags in OPTIMIZERS:
        one = ours(f"--optimizer {flags}", "bf16")
        one.run(2)
        state = [
            value
            for of_one in one.optimizer.state.values()
            for value in of_one.values()
            if isinstance(value, Tensor)
        ]
        held = [*one.model.parameters(), *state]
        before = [tensor.detach().clone() for tensor in held]
        for parameter in one.model.parameters():
            parameter.grad = torch.full_like(parameter, float("nan"))
        nan = torch.full((), float("nan"), device=DEVICE)
        one.parts.precision.step(one.optimizer, one.parts.precision.check_step(nan, nan))
        assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True)), flags
        one.close()
    return "holds"


@check("pruning: masks, thresholds and random bits as on the CPU, to the bit")
def _() -> Any:
    torch.manual_seed(0)
    scores = [torch.randn(1000, 700), torch.randn(300, 1111).abs()]
    for count in (0, 1, 500_001, 900_000):
        here, there = (
            [
                mask.cpu()
                for mask in topk.smallest(
                    [lambda s=s, d=device: topk.keys(s.to(d)) for s in scores], count
                )
            ]
            for device in (DEVICE, CPU)
        )
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True)), count
        for mask in there:
            packed = masks.pack(mask.to(DEVICE))
            assert torch.equal(packed.cpu(), masks.pack(mask))
            assert torch.equal(masks.unpack(packed, mask.shape).cpu(), mask)
    step = torch.tensor(12345.0)
    drawn = random_bits(100_000, step.to(DEVICE), 3)
    assert torch.equal(drawn.cpu(), random_bits(100_000, step, 3))
    wide, start = torch.randn(2, 100_001), offset(step, 3)
    forms = [moments_by_formula, *[rounded_moments] * CUDA]  # the second is compiled by Triton
    for form in forms:
        found = form(wide.to(DEVICE), start.to(DEVICE))
        for moment, expected in zip(found, moments_by_formula(wide, start), strict=True):
            assert torch.equal(moment.cpu(), expected), form
    return "equal"


@check("attention: the kernel named, and the one taken by a strided q that wants a gradient")
def _() -> Any:
    found = {}
    shapes = [(8, 12, 1024, 64), (64, 12, 256, 64), (8, 4, 64, 32)]
    if not CUDA:
        shapes = shapes[-1:]  # the others take a CPU minutes
    for (b, h, t, w), dtype, dropout in itertools.product(shapes, WORST, (0.0, 0.1)):
        joined = torch.randn(b, t, 3 * h * w, device=DEVICE, dtype=dtype).requires_grad_()
        q, k, v = (part.view(b, t, h, w).transpose(1, 2) for part in joined.split(h * w, dim=2))
        named = kernel_taken(torch.empty(b, h, t, w, device=DEVICE, dtype=dtype), dropout)
        taken = kernel_taken(q, dropout)
        flash_attention(q, k, v, dropout).sum().backward()  # type: ignore[no-untyped-call]
        same = named == taken
        found[f"{b}x{h}x{t}x{w} {dtype} {dropout}"] = (
            named if same else f"{named} named, {taken} taken"
        )
    return found


@check("memory held after an out-of-memory that was caught as in training")
def _() -> Any:
    if not CUDA:
        return "only on CUDA"
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction(0.02)

    def attempt() -> None:
        one = ours("--batch-size 4096 --loss full", "bf16", vocabulary=50257)
        try:
            one.run(2)
        finally:
            one.close()

    error: RuntimeError | None = None
    try:
        attempt()
    except RuntimeError as caught:
        error = caught.with_traceback(None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert error is not None, "it fitted"
    assert is_exhaustion(error), error
    release()
    left = torch.cuda.memory_allocated() - before
    assert left < 40e6, left  # cuBLAS keeps its workspace
    return f"{left / 1e6:.0f} MB left, {torch.cuda.memory_reserved() / 1e6:.0f} MB reserved"


if os.environ.get("OUT"):
    Path(os.environ["OUT"], "checks.json").write_text(json.dumps(RESULTS, indent=1, default=str))
sys.exit(any(str(value).startswith("FAILED") for value in RESULTS.values()))
