"""Speed and memory of training one configuration, ours alternating with its peers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from gpt2.config.typed import Config
from gpt2.machine import device as machine
from gpt2.machine.cards import peak_flops
from gpt2.machine.device import device_name
from gpt2.machine.processor import cores
from gpt2.optim.precision import DTYPES
from gpt2.planning.cpu_precision import choose
from scripts.benchmark import contestants as contest
from scripts.benchmark import measure as meter
from scripts.benchmark.contestants import Ours, Side
from scripts.benchmark.vocabulary import usual_vocabulary


def measure(config: Config, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one configuration; return all of its numbers.

    Raises UserError.
    """
    device = machine.resolve_device(config.machine.device, config.machine.device_index)
    machine.keep_freed_memory(device)  # as train.py does; it helps the peers, too
    precision = choose(config, device, measure=False).precision
    machine.prepare(config.machine, precision, config.train.seed)
    tokens = contest.synthetic_tokens(config, arguments.vocab_size or usual_vocabulary(config))
    ours = Ours(config, tokens, device, precision)
    sides: list[contest.Side] = [ours]
    try:
        for name in dict.fromkeys(arguments.against):
            sides.append(contest.build_peer(name, config, tokens, ours))
            contest.check_same_loss(ours, sides[-1])
        compiled = {
            side.name: contest.compile_side(side)
            for side in sides
            if contest.wants_compiling(side, config)
        }
        measured = _run(sides, compiled, arguments)
    finally:
        for side in sides:
            side.close()
    return {
        "model": config.model.model,
        "shape": {**_shape(config), "vocabulary": tokens.meta.vocab_size},
        "parameters": ours.model.parameter_count(),
        "precision": precision,
        "compiled": bool(config.machine.compile),
        "steps": arguments.steps,
        "repeats": arguments.repeats,
        "machine": _machine(machine.describe(device), arguments.against),
        **measured,
    }


def _run(
    sides: Sequence[Side], compiled: dict[str, float], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Warm up, then measure time and memory, and profile; the first side is ours."""
    ours = sides[0]
    assert isinstance(ours, Ours)
    device, dtype = ours.parts.precision.device, DTYPES[ours.parts.precision.name]
    for side in sides:
        side.run(arguments.warmup)
    limit = meter.MatmulLimit(device, dtype)
    runs = {side.name: side.run for side in sides}
    times = meter.interleaved(runs, arguments.steps, arguments.repeats, device, limit)
    memory = {
        side.name: meter.peak_memory(side, [s for s in sides if s is not side], device)
        for side in sides
    }
    costs = meter.profile(ours, device, arguments.profile) if arguments.profile else None
    tokens = ours.parts.batches.effective_batch * ours.parts.batches.block_size
    matmul = times.pop("matmul")
    parameters = ours.model.parameter_count()
    peak = peak_flops(device_name(device), ours.parts.precision.name)
    per_token = ours.parts.flops_per_token
    return {
        "tokens_per_step": tokens,
        "matmul": {
            "size": limit.size,
            **meter.spread(matmul),
            "best": max(matmul),
            "card_peak": peak,
        },
        "sides": {
            name: {
                **meter.summary(values, times["ours"], matmul, parameters, tokens, per_token, peak),
                "compile_seconds": compiled.get(name),
                **memory[name],
            }
            for name, values in times.items()
        },
        "profile": costs,
    }


def _shape(config: Config) -> dict[str, Any]:
    return {
        "layers": config.model.n_layer,
        "width": config.model.n_embd,
        "heads": config.model.n_head,
        "block": config.model.block_size,
        "batch": config.train.batch_size,
        "accumulation": config.train.gradient_accumulation,
        "dropout": config.model.dropout,
    }


def _machine(described: dict[str, Any], against: Sequence[str]) -> dict[str, Any]:
    versions = {k: described["versions"][k] for k in ("python", "torch", "cuda", "hip")}
    if any(name.startswith("transformers") for name in against):
        versions["transformers"] = metadata.version("transformers")
    return {
        "device": described["device"],
        "device_name": described["device_name"],
        "cores": cores(),
        "threads": described["threads"],
        "commit": described["commit"],
        "versions": {name: version for name, version in versions.items() if version},
    }
