"""The messages of a training session: at its start, at its end, and when it is stopped."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2.config.sizes import show_size
from gpt2.config.text import counted, duration, rough_duration
from gpt2.config.typed import Config
from gpt2.data.tokens import TokenFile
from gpt2.model.language_model import LanguageModel
from gpt2.optim.precision import emulated
from gpt2.planning.duration import Left, Predicted, predicted
from gpt2.run_dir.console import Console
from gpt2.run_dir.resume import RUNS, equal_unfinished
from gpt2.training.loop import Parts, Progress

#: The watchdog's name for the time after the last step.
ENDING = "the end of the run"
#: Runs predicted to take longer on a CPU, in seconds, get a hint at the small defconfig.
_LONG = 1800.0

#: Warnings where bf16 is emulated, by device type.
_EMULATED = {
    "cpu": "--precision bf16: this CPU has no bf16 instructions and is about a hundred times "
    "slower in it; use --precision fp32",
    "cuda": "--precision bf16: this GPU has no bf16 instructions and is slow in it; use "
    "--precision fp16",
}


def startup(
    config: Config,
    model: LanguageModel,
    parts: Parts,
    progress: Progress,
    data: Mapping[str, TokenFile],
    record: Mapping[str, Any],
    folder: Path,
    console: Console,
) -> None:
    """Print the lines of a run's start; `record` is the content of run.json."""
    batches, prune = parts.batches, config.prune
    prunable = model.prunable(prune.prune_scope) if prune else {}
    known = {
        **record,
        "model": config.model.model,
        "parameters": model.parameter_count(),
        "block": config.model.block_size,
        "dataset": config.data.dataset,
        "tokens": len(data["train"].ids),
        "steps": progress.steps,
        "batch": batches.effective_batch,
        "epochs": (progress.steps or 0) * batches.effective_batch / batches.sequences,
        "max_time": config.train.max_time,
        "folder": folder,
        "kept": parts.pruner.sparsity().reached if config.model.keep_sparsity else None,
        "pruning": prune and prune.pruning_method,
        "pattern": prune and prune.sparsity_pattern,
        "sparsity_asked": prune and prune.target_sparsity,
        "prunable": sum(weight.numel() for weight in prunable.values()),
    }
    for line in startup_summary(known):
        console.say(line)
    device = parts.precision.device
    if emulated(parts.precision.name, device):
        console.warn(_EMULATED[device.type])
    if device.type == "cpu" and progress.steps is not None:
        limit = progress.max_time and progress.max_time - progress.elapsed
        left = Left(
            progress.steps - progress.step,
            batches.effective_batch,
            limit,
            len(data["val"].ids),
            len(data["test"].ids) if "test" in data else 0,
        )
        for line in cpu_warning(predicted(config, model.parameter_count(), left)):
            console.say(line)
    if progress.step or not parts.ranks.first:
        return
    if (other := equal_unfinished(config, folder)) is not None:
        path = shown(other)
        console.say(
            f"an unfinished run with the same options is in {path}: --run-dir {path} resumes it"
        )


def startup_summary(known: Mapping[str, Any]) -> list[str]:
    """Return lines that say what will run, on what, and for how long.

    `known`: model, parameters, block, attention, dataset, tokens, device, device_name, precision,
    threads, compiled, ranks, steps (None when time ends the run), batch, epochs, max_time, folder,
    kept (the share of zeros that stay, or None), pruning (the method, or None), sparsity_asked,
    prunable (weights), pattern.
    """
    lines = [
        f"model {known['model']}: {_millions(known['parameters'])} parameters, "
        f"context {known['block']}, attention {known['attention']}",
        f"data {known['dataset']}: {known['tokens']:,} training tokens",
        f"device {known['device']} ({known['device_name']}), {known['precision']}, "
        f"{counted(known['threads'], 'CPU thread')}, "
        + ("compiled" if known["compiled"] else "not compiled")
        + (f", {known['ranks']} ranks" if known["ranks"] > 1 else ""),
    ]
    if known["steps"] is not None:
        lines.append(
            f"{counted(known['steps'], 'step')} of {counted(known['batch'], 'sequence')} "
            f"({known['batch'] * known['block']:,} tokens), {known['epochs']:.1f} epochs"
        )
    if known["pruning"]:
        lines.append(
            f"pruning {known['pruning']}: {known['sparsity_asked']:.1%} of "
            f"{_millions(known['prunable'])} weights to zero, pattern {known['pattern']}"
        )
    if known["kept"] is not None:
        lines.append(f"zeros kept: {known['kept']:.2%} of the prunable weights stay zero")
    if known["max_time"]:
        lines.append(f"at most {duration(known['max_time'])} of training")
    return [*lines, f"run directory {shown(known['folder'])}"]


def cpu_warning(time: Predicted) -> list[str]:
    """Return lines with a run's predicted time on this CPU and, if long, a shorter alternative."""
    lines = [f"training on the CPU (no GPU in use), {time}"]
    if time.seconds > _LONG:
        lines.append(
            "for a run of minutes on a CPU: make defconfig-gpt2-shakespeare-char-cpu && make"
        )
    return lines


def final_summary(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """Return lines with the results (of summary.json), where they are, and what to try next."""
    lines = [
        f"validation loss {summary['val_loss']:.4f} nats per token, "
        f"perplexity {summary['val_perplexity']:.2f}, "
        f"{summary['bits_per_byte']:.4f} bits per byte (whole split, last step)"
    ]
    if summary["test_loss"] is not None:
        lines.append(
            f"test loss {summary['test_loss']:.4f}, perplexity {summary['test_perplexity']:.2f}, "
            f"{summary['test_bits_per_byte']:.4f} bits per byte; validation and test together "
            f"{summary['val_test_loss']:.4f}"
        )
    best = summary["best"]
    if best and best["step"] != summary["steps"]:
        lines.append(f"best during the run: {best['val_loss']:.4f} at step {best['step']}")
    if summary["sparsity_reached"] > 0.0:
        lines.append(
            f"sparsity {summary['sparsity_reached']:.2%} of the prunable weights (asked: "
            f"{summary['sparsity_asked']:.2%}), {summary['sparsity_whole']:.2%} of all"
        )
    if skipped := _skipped(summary):
        lines.append(skipped)
    speed = f"{summary['tokens_per_second']:,.0f} tokens/s"
    if summary["mfu"] is not None:
        speed += f", MFU {summary['mfu']:.1%}"
    elif summary["peak_device_bytes"]:  # a CPU's peak FLOP rate is not asked for
        speed += ", MFU unknown"
    memory = f"peak host memory {show_size(summary['peak_host_bytes'])}"
    if summary["peak_device_bytes"]:
        memory += f", device {show_size(summary['peak_device_bytes'])}"
    return [
        *lines,
        f"{counted(summary['steps'], 'step')}, {summary['tokens']:,} tokens in "
        f"{duration(summary['seconds'])} ({speed}), {memory}",
        f"run directory {shown(folder)}",
        *_next(folder),
    ]


def _next(folder: Path) -> list[str]:
    """Return commands to try next; make targets take the newest run of the usual folder."""
    if folder.parent == RUNS:
        ways = {
            "make sample ARGS='--tokens 500'": "more text",
            f"make report RUNS={shlex.quote(shown(folder))}": "loss curves",
            "make menuconfig": "change an option; make trains again",
        }
    else:
        run = shlex.quote(shown(folder))
        ways = {
            f"python3 gpt2/sample.py --run {run} --tokens 500": "more text",
            f"python3 gpt2/evaluate.py --run {run}": "the loss again",
            f"python3 scripts/report.py --runs {run}": "loss curves",
        }
    width = max(map(len, ways))
    lines = [f"{command:{width}}    {what}" for command, what in ways.items()]
    return [f"next: {lines[0]}", *(f"      {line}" for line in lines[1:])]


def stopping(signal: str, doing: str, step_seconds: float | None, saved: int | None) -> str:
    """Return the answer to a stop request: what finishes first, what a second Ctrl-C loses.

    `doing` is the watchdog's name for the current work, `saved` the step of the last checkpoint.
    """
    last = "no checkpoint yet" if saved is None else f"that of step {saved}"
    lost = f"Ctrl-C again stops now and loses the steps since the last checkpoint ({last})"
    by = "" if signal == "SIGINT" else f" ({signal})"
    if doing == ENDING:
        return f"stopping{by}: the results are being written"
    what = {"the start of the run": "the first step"}.get(doing, doing)
    what = "this step" if what.startswith("step ") else what
    if step_seconds is not None and step_seconds >= 2.0 and what == "this step":
        what += f" (about {rough_duration(step_seconds)} each)"
    return f"stopping{by} after {what}, then saving; {lost}"


def stopping_early(_: str, again: bool) -> str:
    """Return the answer to a stop request while the run is still being built."""
    if again:
        return "stopped at once; the run had not started"
    return "stopping once the run has started; Ctrl-C again stops now, and nothing is lost"


def stopped_at_once(saved: int | None, folder: Path) -> str:
    """Return the answer to the second Ctrl-C; `saved` is the step of the last checkpoint."""
    if saved is None:
        return "stopped at once; nothing was saved"
    way = f"the same command with --run-dir {shown(folder)}"
    if folder.parent == RUNS:
        way = "make resume"
    return f"stopped at once; nothing saved since step {saved}: {way} continues from there"


def way_back(saved: int | None, folder: Path) -> str:
    """Return how to resume a run that ended; `saved` is the step of the last checkpoint."""
    again = f"the same command with --run-dir {shown(folder)}"
    if saved is None:
        return f"then {again} starts it again: there was no checkpoint yet"
    way = f"make resume (or {again})" if folder.parent == RUNS else again
    return f"then resume from step {saved}: {way}"


def _skipped(summary: Mapping[str, Any]) -> str:
    """Return which steps were skipped, and the rollbacks; empty when there were none."""
    skipped, spiked, back = (summary[n] for n in ("skipped_steps", "spiked_steps", "rollbacks"))
    parts = [f"{counted(skipped, 'step')} skipped: loss or gradient NaN or Inf"] if skipped else []
    parts += [f"{counted(spiked, 'step')} skipped: spike"] if spiked else []
    parts += [f"{counted(back, 'rollback')} after spikes"] if back else []
    return ", ".join(parts)


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else f"{count:,}"


def shown(path: Path) -> str:
    """Return a path as the user would type it: relative where it is below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
