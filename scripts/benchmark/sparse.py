"""Measure what the zeros of a run save at inference: dense model against sparse matrices.

On a CPU, every attention and MLP matrix with zeros becomes CSR. On NVIDIA GPUs since Ampere, a run
with 2:4 zeros uses the sparse tensor cores. That both sides compute the same is checked before the
measurement.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt2.config.actions import NoActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import UserError
from gpt2.config.text import markdown_table
from gpt2.config.typed import MachineConfig
from gpt2.machine import device as machine
from gpt2.machine import processor
from gpt2.model.cache import Cache
from gpt2.model.language_model import LanguageModel
from gpt2.weights.trained import load_trained
from scripts.benchmark.measure import spread, synchronise
from scripts.benchmark.sparse_layers import (
    check_same,
    is_two_of_four,
    matrix_bytes,
    pruned_layers,
    sparsity,
    with_sparse_layers,
)
from scripts.benchmark.tables import load_remark, spread_text

OPTIONS = ("DEVICE", "DEVICE_INDEX", "NUM_THREADS")
#: Sequences of the batch, and the most tokens that one sequence grows by in a turn.
BATCH, LONGEST = 8, 64
_AMPERE = (8, 0)
#: Kernels that need no plan for each number of keys: cuDNN, which torch prefers on an H100, does.
_FOR_ANY_LENGTH = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
#: Flags that --sparse uses; the bench's other flags are about training.
_USED = ("sparse", "steps", "repeats", "warmup", "json")


def main(arguments: argparse.Namespace, defaults: argparse.Namespace, more: Sequence[str]) -> None:
    """Compare the two forms of the run `arguments.sparse`; print a table and the verdict.

    `more` are flags of train.py that name the device. Raises UserError.
    """
    for name, value in vars(arguments).items():
        if name not in _USED and value != getattr(defaults, name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{flag} has no effect with --sparse, which measures inference; drop it"
            )
    options, _ = parse("bench.py", "", more, NoActions, OPTIONS)
    report = compare(bind(options).machine, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(text_of(report))


def compare(where: MachineConfig, arguments: argparse.Namespace) -> dict[str, Any]:
    """Build both forms, check that they compute the same, and measure them.

    Raises UserError.
    """
    load = processor.load()  # before this adds to it
    model = load_trained(arguments.sparse, False, dataclasses.replace(where, device="cpu")).model
    pruned = pruned_layers(model)
    if not pruned:
        raise UserError(
            f"--sparse {arguments.sparse}: its attention and MLP matrices have no zeros, so there "
            "is nothing sparse to measure; name a run that was pruned"
        )
    share = sparsity(pruned)
    patterned = all(is_two_of_four(layer.weight) for layer in pruned.values())
    device = choose_device(where.device, patterned, where.device_index)
    if device.type == "cuda":
        model = model.to(device, torch.bfloat16)
    form = "csr" if device.type == "cpu" else "2:4"
    sides = {"dense": model, form: with_sparse_layers(model, form)}
    draws = torch.Generator().manual_seed(0)
    shape = (BATCH, model.config.block_size)
    ids = torch.randint(model.vocab_size, shape, generator=draws).to(device)
    check_same(sides["dense"], sides[form], ids)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": load,
        "run": str(arguments.sparse),
        "form": form,
        "two_of_four": patterned,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "sparsity": share,
        "matrices": len(pruned),
        "parameters": model.parameter_count(),
        "matrix_bytes": {name: matrix_bytes(side, set(pruned)) for name, side in sides.items()},
        "machine": machine.describe(device),
        "cases": measure(sides, ids, arguments, device),
    }


def choose_device(asked: str, patterned: bool, index: int | None = None) -> torch.device:
    """Return the device on which these zeros can be used.

    A GPU, number `index`, only uses 2:4, so `auto` is the CPU for other zeros. Raises UserError
    when `asked` cannot use them.
    """
    capable = (
        torch.cuda.is_available()
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(index) >= _AMPERE
    )
    device = machine.resolve_device(asked, index)
    if asked == "auto":
        return device if device.type == "cuda" and capable and patterned else torch.device("cpu")
    if device.type == "cpu" or (device.type == "cuda" and capable and patterned):
        return device
    why = "these zeros are not 2:4" if capable else "this is not an NVIDIA GPU from Ampere on"
    raise UserError(
        f"--device {asked}: a GPU can use zeros that are 2:4, on NVIDIA from Ampere on, and "
        f"{why}; use --device cpu"
    )


@torch.inference_mode()
def read_batch(model: LanguageModel, ids: Tensor) -> int:
    """Read all sequences (B, T) at once, as far as the next token of each; return the tokens."""
    model.logits(ids)
    return ids.numel()


@torch.inference_mode()
def write_one(model: LanguageModel, ids: Tensor) -> int:
    """Extend one sequence token by token, as sample.py does; return the tokens."""
    count = min(LONGEST, ids.size(1))
    cache = Cache(model.config.n_layer, count)
    with sdpa_kernel(_FOR_ANY_LENGTH):
        for position in range(count):
            model.logits(ids[:1, position : position + 1], cache)
    return count


CASES: dict[str, Callable[[LanguageModel, Tensor], int]] = {"batch": read_batch, "one": write_one}


def measure(
    sides: dict[str, LanguageModel],
    ids: Tensor,
    arguments: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    """Return tokens/s of both sides in every case, and the second's over the first's.

    In every repeat both take a turn, alternating the first; the ratio is within a repeat.
    """
    gc.collect()
    gc.disable()
    try:
        return {
            case: _measured(work, sides, ids, arguments, device) for case, work in CASES.items()
        }
    finally:
        gc.enable()


def _measured(
    work: Callable[[LanguageModel, Tensor], int],
    sides: dict[str, LanguageModel],
    ids: Tensor,
    arguments: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        _speed(work, side, ids, arguments.warmup, device)
    for repeat in range(arguments.repeats):
        turn = list(sides.items())
        for name, side in turn if repeat % 2 else reversed(turn):
            speeds[name].append(_speed(work, side, ids, arguments.steps, device))
    dense, sparse = speeds.values()
    ratios = [theirs / own for own, theirs in zip(dense, sparse, strict=True)]
    return {
        "tokens_per_second": {name: spread(values) for name, values in speeds.items()},
        "ratio": spread(ratios),
        "verdict": verdict(ratios),
    }


def _speed(
    work: Callable[[LanguageModel, Tensor], int],
    model: LanguageModel,
    ids: Tensor,
    times: int,
    device: torch.device,
) -> float:
    synchronise(device)
    start = time.perf_counter()
    tokens = sum(work(model, ids) for _ in range(times))
    synchronise(device)
    return tokens / (time.perf_counter() - start)


def verdict(ratios: Sequence[float]) -> str:
    """Describe the ratios of tokens/s, sparse over dense.

    A difference counts when three quarters of the turns show it.
    """
    middle = statistics.median(ratios)
    low = high = middle
    if len(ratios) > 1:
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    if low > 1.0:
        return f"sparse is {middle:.2f} times as fast"
    if high < 1.0:
        return f"no speed-up: sparse takes {1.0 / middle:.2f} times as long"
    return "no speed-up: no difference beyond that of one turn from another"


def text_of(report: dict[str, Any]) -> str:
    """Return a report as Markdown, the verdict last."""
    where, form = report["machine"], report["form"]
    date = datetime.fromisoformat(report["date"])
    held = [f"{name} {size / 2**20:,.1f} MiB" for name, size in report["matrix_bytes"].items()]
    pattern = "are" if report["two_of_four"] else "are not"
    lines = [
        f"### Inference of {report['run']}: dense against {form}",
        "",
        f"{date.day} {date:%B %Y}; {where['device_name']}, {where['threads']} threads; torch "
        f"{where['versions']['torch']}; {report['dtype']}.{load_remark(report['load_average'])}",
        f"{report['parameters'] / 1e6:.1f} M parameters; {report['matrices']} matrices with "
        f"{report['sparsity']:.2%} zeros, in memory {', '.join(held)}.",
        "",
    ]
    titles = {
        "batch": f"{BATCH} sequences read at once",
        "one": "1 sequence, written token by token",
    }
    rows = []
    for case, found in report["cases"].items():
        speeds = [spread_text(value, 0) for value in found["tokens_per_second"].values()]
        rows.append([titles[case], *speeds, spread_text(found["ratio"], 3), found["verdict"]])
    columns = ["tokens/s", "dense", form, f"{form} / dense", ""]
    lines += [markdown_table(columns, rows), ""]
    if form == "csr":
        lines.append(
            f"2:4 was not measured: a CPU cannot use it, an NVIDIA GPU from Ampere on can. These "
            f"zeros {pattern} 2:4."
        )
    return "\n".join([*lines, f"Verdict: {overall(report['cases'])}"])


def overall(cases: dict[str, Any]) -> str:
    """Return one sentence over all cases."""
    faster = [not found["verdict"].startswith("no speed-up") for found in cases.values()]
    if all(faster):
        return "a speed-up, read at once and written token by token."
    if not any(faster):
        return "no speed-up on this machine; what the zeros save is disk (export.py)."
    way = "read at once" if faster[0] else "written token by token"
    return f"a speed-up only for text {way}."
