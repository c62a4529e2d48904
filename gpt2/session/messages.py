"""What a training session tells its user before the start and after the end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2.run_dir.console import duration
from gpt2.run_dir.resume import RUNS

#: Seconds on a CPU beyond which the small defconfig is named.
_LONG = 1800.0


def introduction(facts: Mapping[str, Any]) -> list[str]:
    """Say what will run, where, for how long.

    `facts`: model, parameters, block, attention, dataset, tokens, device, device_name, precision,
    threads, compiled, ranks, steps (None when time ends the run), batch, epochs, max_time, folder,
    pruning (the method, or None), sparsity_asked, prunable (weights), pattern.
    """
    lines = [
        f"model {facts['model']}: {_millions(facts['parameters'])} parameters, "
        f"context {facts['block']}, attention {facts['attention']}",
        f"data {facts['dataset']}: {facts['tokens']:,} training tokens",
        f"device {facts['device']} ({facts['device_name']}), {facts['precision']}, "
        f"{facts['threads']} CPU threads, {'compiled' if facts['compiled'] else 'not compiled'}"
        + (f", {facts['ranks']} ranks" if facts["ranks"] > 1 else ""),
    ]
    if facts["steps"] is not None:
        lines.append(
            f"{facts['steps']} steps of {facts['batch']} sequences "
            f"({facts['batch'] * facts['block']:,} tokens), {facts['epochs']:.1f} epochs"
        )
    if facts["pruning"]:
        lines.append(
            f"pruning {facts['pruning']}: {facts['sparsity_asked']:.1%} of "
            f"{_millions(facts['prunable'])} weights to zero, pattern {facts['pattern']}"
        )
    if facts["max_time"]:
        lines.append(f"at most {duration(facts['max_time'])} of training")
    return [*lines, f"run directory {shown(facts['folder'])}"]


def cpu_warning(seconds: float) -> list[str]:
    """Say how long a run takes on this CPU, and what takes minutes if that is long."""
    lines = [f"no GPU in use: this will take about {duration(seconds)} on this CPU"]
    if seconds > _LONG:
        lines.append("a run of minutes for a CPU: make defconfig-gpt2-shakespeare-char-cpu && make")
    return lines


def conclusion(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """Say what came out (the content of summary.json), where it is, and what to try next."""
    lines = [
        f"validation loss {summary['val_loss']:.4f} nats per token, "
        f"perplexity {summary['val_perplexity']:.2f}, "
        f"{summary['bits_per_byte']:.4f} bits per byte (whole split, last step)"
    ]
    best = summary["best"]
    if best and best["step"] != summary["steps"]:
        lines.append(f"best during the run: {best['val_loss']:.4f} at step {best['step']}")
    if summary["sparsity_reached"] > 0.0:
        lines.append(
            f"sparsity {summary['sparsity_reached']:.2%} of the prunable weights (asked: "
            f"{summary['sparsity_asked']:.2%}), {summary['sparsity_whole']:.2%} of all"
        )
    if refused := _refused(summary):
        lines.append(refused)
    memory = f"peak host memory {summary['peak_host_bytes'] / 1e6:,.0f} MB"
    if summary["peak_device_bytes"]:
        memory += f", device {summary['peak_device_bytes'] / 1e6:,.0f} MB"
    return [
        *lines,
        f"{summary['steps']} steps, {summary['tokens']:,} tokens in "
        f"{duration(summary['seconds'])} ({summary['tokens_per_second']:,.0f} tokens/s), {memory}",
        f"run directory {shown(folder)}",
        *_next(folder),
    ]


def _next(folder: Path) -> list[str]:
    """Say what to try next; the targets of make take the newest run of the usual folder."""
    if folder.parent == RUNS:
        return [
            "next: make sample ARGS='--prompt \"ROMEO:\"' writes more, make evaluate measures",
            "      it again, make menuconfig changes an option and make trains again",
        ]
    run = shlex.quote(shown(folder))
    return [
        f"next: gpt2/sample.py --run {run} writes more of it,",
        f"      gpt2/evaluate.py --run {run} measures it again",
    ]


def _refused(summary: Mapping[str, Any]) -> str:
    """Say which steps were not made, and how often the run went back; empty when all went well."""
    skipped, spiked, back = (summary[n] for n in ("skipped_steps", "spiked_steps", "rollbacks"))
    parts = [f"{_counted(skipped, 'step')} skipped: not finite"] if skipped else []
    parts += [f"{_counted(spiked, 'step')} skipped: spiked"] if spiked else []
    parts += [f"{_counted(back, 'rollback')} after spikes"] if back else []
    return ", ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else f"{count:,}"


def shown(path: Path) -> str:
    """Return a path as the user would type it: relative where it is below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
