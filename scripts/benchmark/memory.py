"""Compare the real memory of training with the plan; on a GPU store the ratio for plans."""

from __future__ import annotations

import dataclasses
import gc
import json
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from gpt2.config.sizes import show_size
from gpt2.config.text import markdown_table
from gpt2.config.typed import Config
from gpt2.machine import device as machine
from gpt2.planning.calibration import store_ratio
from gpt2.planning.cpu_precision import choose
from gpt2.planning.plan import plan
from gpt2.planning.step import peak_of
from scripts.benchmark.contestants import Ours, compile_ours, synthetic_tokens
from scripts.benchmark.measure import host_bytes, peak_host

_STEPS = 3  # the second is the first with state and activations together


def main(arguments: Namespace, configs: Sequence[Config], vocabulary: int | None) -> None:
    """Measure each configuration and its plan; print a table, store the ratio of a card."""
    device = machine.resolve_device(configs[0].machine.device, configs[0].machine.device_index)
    machine.keep_freed_memory(device)
    found = [measure(config, vocabulary or 50257, device) for config in configs]
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": machine.device_name(device),
        "torch": torch.__version__,
        "results": found,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{report['device']}, torch {report['torch']}, {report['date']}\n")
    print(lines(found))
    if device.type == "cuda":
        worst = max(result["measured"] / result["planned"] for result in found)
        store_ratio(machine.device_name(device), worst)
        print(f"\nreserved over planned: {worst:.3f}, kept for later plans on this card")


def measure(config: Config, vocabulary: int, device: torch.device) -> dict[str, Any]:
    """Train some steps and return the peak, in bytes, planned and measured.

    Measured is the allocator's reserve on a GPU. On a CPU it is RssAnon above that of the same
    program after a step of a small model.
    """
    precision = choose(config, device, measure=False).precision
    machine.prepare(config.machine, precision, config.train.seed)
    shape = dataclasses.replace(config.model, n_layer=1, n_head=1, n_embd=16, block_size=16)
    small = dataclasses.replace(
        config,
        model=shape,
        train=dataclasses.replace(config.train, batch_size=1),
        machine=dataclasses.replace(config.machine, compile=False),
    )
    _train(small, 64, device, precision)
    planned = plan(config, vocabulary)
    gc.collect()
    machine.give_back_freed_memory()
    before = host_bytes()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        _train(config, vocabulary, device, precision)
        allocated = torch.cuda.max_memory_allocated(device)
        measured = torch.cuda.max_memory_reserved(device)
    else:
        highest = peak_host(lambda: _train(config, vocabulary, device, precision))
        assert highest is not None, "RssAnon needs /proc"
        assert before is not None
        allocated = measured = highest - before
    return {
        "model": config.model.model,
        "batch_size": config.train.batch_size,
        "gradient_accumulation": config.train.gradient_accumulation,
        "block_size": config.model.block_size,
        "dropout": config.model.dropout,
        "activation_checkpointing": config.model.activation_checkpointing,
        "precision": precision,
        "compiled": bool(config.machine.compile),
        "planned": planned.budget.needed(peak_of(planned.shape))
        if planned.budget.heap
        else peak_of(planned.shape).total,
        "allocated": allocated,
        "measured": measured,
    }


def _train(config: Config, vocabulary: int, device: torch.device, precision: str) -> None:
    ours = Ours(config, synthetic_tokens(config, vocabulary), device, precision)
    try:
        compile_ours(ours, config)
        ours.run(_STEPS)
    finally:
        ours.close()


def lines(found: Sequence[dict[str, Any]]) -> str:
    """Return the results as a table in Markdown."""
    rows = [
        [
            f"{r['model']} {r['batch_size']} x {r['block_size']}"
            + (f" x {r['gradient_accumulation']}" if r["gradient_accumulation"] > 1 else ""),
            r["precision"] + (", compiled" if r["compiled"] else ""),
            r["activation_checkpointing"],
            f"{r['dropout']:g}",
            show_size(r["planned"]),
            show_size(r["allocated"]),
            show_size(r["measured"]),
            f"{r['measured'] / r['planned']:.3f}",
        ]
        for r in found
    ]
    titles = ["step", "precision", "activations", "dropout", "planned", "allocated", "taken"]
    return markdown_table([*titles, "taken / planned"], rows)
