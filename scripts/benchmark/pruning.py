"""The cost of pruning during training: steps that keep zeros, and the events.

Every method alternates with the dense model, at its target from the start. Its event is timed
separately and counted once per interval.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import time
from datetime import UTC, datetime
from typing import Any

import torch

from gpt2.config.errors import UserError
from gpt2.config.text import markdown_table
from gpt2.config.typed import Config
from gpt2.machine import device as machine
from gpt2.planning.cpu_precision import choose
from gpt2.prune.gradual import GradualPruner
from scripts.benchmark.contestants import Ours, compile_ours, synthetic_tokens
from scripts.benchmark.measure import interleaved, peak_of, spread, synchronise

#: Steps between events, for the share of training time.
INTERVAL = 100
_EVENTS = 3


def main(arguments: argparse.Namespace, configs: dict[str, Config], vocabulary: int) -> None:
    """Measure the pruning methods of `configs`, which differ in nothing else; print a table.

    Raises UserError.
    """
    dense = dataclasses.replace(next(iter(configs.values())), prune=None)
    device = machine.resolve_device(dense.machine.device, dense.machine.device_index)
    precision = choose(dense, device, measure=False).precision
    machine.prepare(dense.machine, precision, dense.train.seed)
    tokens = synthetic_tokens(dense, vocabulary)
    sides = {"dense": Ours(dense, tokens, device, precision)}
    try:
        for name, config in configs.items():
            sides[name] = Ours(config, tokens, device, precision)
        for side in sides.values():
            compile_ours(side, dense)
        report = _measure(sides, arguments, device)
    finally:
        for side in sides.values():
            side.close()
    report |= {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(device),
        "compiled": bool(dense.machine.compile),
        "parameters": sides["dense"].model.parameter_count(),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(_as_table(report))


def _measure(
    sides: dict[str, Ours], arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    for side in sides.values():
        side.run(arguments.warmup)
    events = {name: _event(side, device) for name, side in sides.items() if name != "dense"}
    runs = {name: side.run for name, side in sides.items()}
    times = interleaved(runs, arguments.steps, arguments.repeats, device)
    rows = {}
    for name, event in events.items():
        ratios = [a / b - 1.0 for a, b in zip(times[name], times["dense"], strict=True)]
        share = event["ms"] / INTERVAL / statistics.median(times["dense"])
        steps = spread(ratios)
        rows[name] = {**event, "step": steps, "event_share": share, "all": steps["median"] + share}
    return {"dense_ms": spread(times["dense"]), "times": times, "methods": rows}


def _event(side: Ours, device: torch.device) -> dict[str, Any]:
    """Prune to the target; return the time of an event, and its extra memory."""
    pruner = side.parts.pruner
    if not isinstance(pruner, GradualPruner):
        raise UserError("--pruning: only methods that prune along a ramp have a cost per event")
    target = pruner.context.schedule.target
    pruner.apply(1, 1.0)  # the last event of the schedule: from now on the side trains sparse
    pruner.verify()
    peak = peak_of(lambda: pruner.prune(target), device)
    times = []
    for _ in range(_EVENTS):
        gc.collect()
        synchronise(device)
        start = time.perf_counter()
        pruner.prune(target)
        synchronise(device)
        times.append(1000.0 * (time.perf_counter() - start))
    held = sum(t.numel() * t.element_size() for t in pruner.state().values())
    return {
        "ms": statistics.median(times),
        "peak_bytes": peak,
        "held_bytes": held,
        "prunable": pruner.context.prunable,
        "target": target,
    }


def _as_table(report: dict[str, Any]) -> str:
    dense = report["dense_ms"]
    rows = [
        [
            name,
            f"{row['target']:.0%}",
            f"{100 * row['step']['median']:.2f} +- {100 * row['step']['iqr']:.2f} %",
            f"{row['ms']:.0f}",
            f"{100 * row['event_share']:.2f} %",
            f"{100 * row['all']:.2f} %",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / row['prunable']:.2f}",
            f"{row['held_bytes'] / row['prunable']:.3f}",
        ]
        for name, row in report["methods"].items()
    ]
    titles = ["method", "zero", "slower steps", "event, ms", f"events, every {INTERVAL} steps"]
    titles += ["together", "peak of an event, bytes/weight", "held, bytes/weight"]
    versions = report["machine"]["versions"]
    return (
        f"{report['parameters'] / 1e6:.1f} M parameters, torch {versions['torch']}, "
        f"{report['machine']['device_name']}, "
        f"{'compiled' if report['compiled'] else 'not compiled'}; a dense step takes "
        f"{dense['median']:,.0f} +- {dense['iqr']:,.0f} ms.\n\n" + markdown_table(titles, rows)
    )
