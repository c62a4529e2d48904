"""The messages of a training session: at its start, at its end, and when it is stopped."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2.config.environment import started_by_make
from gpt2.config.errors import Exit
from gpt2.config.sizes import show_size
from gpt2.config.text import counted, duration, rough_duration, shown_path
from gpt2.config.typed import Config
from gpt2.data.tokens import TokenFile
from gpt2.model.language_model import LanguageModel
from gpt2.optim.precision import emulated
from gpt2.planning.duration import Left, Predicted, predicted
from gpt2.planning.text import minutes_on_cpu
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
    if batches.sequences < batches.effective_batch:
        for_all = (progress.steps or 0) * batches.effective_batch * batches.block_size
        console.warn(
            short_text(known["tokens"], batches.effective_batch, batches.block_size, for_all)
        )
    device = parts.precision.device
    if emulated(parts.precision.name, device):
        console.warn(_EMULATED[device.type])
    if device.type == "cpu":
        limit = progress.max_time and progress.max_time - progress.elapsed
        left = Left(
            progress.steps and progress.steps - progress.step,
            batches.effective_batch,
            limit,
            len(data["val"].ids),
            len(data["test"].ids) if "test" in data else 0,
        )
        for line in cpu_warning(predicted(config, model.parameter_count(), left), config):
            console.say(line)
    if progress.step or not parts.ranks.first:
        return
    if (other := equal_unfinished(config, folder)) is not None:
        path = shown_path(other)
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
            f"({known['batch'] * known['block']:,} tokens): {_reading(known['epochs'])}"
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
    return [*lines, f"run directory {shown_path(known['folder'])}"]


def _reading(epochs: float) -> str:
    """Return how often a run reads its text: 8.0 times, or 63.8% of it."""
    if epochs < 1.0:
        return f"reads {epochs:.1%} of the training text"
    return f"reads the training text {epochs:,.1f} times"


def short_text(tokens: int, batch: int, block: int, every: int) -> str:
    """Return a warning: `tokens` are too few for one step of `batch` different sequences.

    block: tokens of a sequence. every: tokens that the run reads in all; 0 if not known.
    """
    line = (
        f"the training text has only {tokens:,} tokens, and one step reads {batch * block:,} "
        f"({counted(batch, 'sequence')} of {block})"
    )
    if every:
        line += f"; the run reads {every:,}, so each about {every / tokens:,.0f} times"
    return f"{line}: the model will learn the text by heart; give a longer text"


def cpu_warning(time: Predicted, config: Config) -> list[str]:
    """Return lines with a run's predicted time on this CPU and, if long, a shorter alternative."""
    lines = [f"training on the CPU (no GPU in use), {time}"]
    if time.seconds > _LONG and (way := minutes_on_cpu(config)):
        lines.append(way)
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
        f"run directory {shown_path(folder)}",
        *_next(folder),
    ]


def _next(folder: Path) -> list[str]:
    """Return commands to try next; make targets take the newest run of the usual folder."""
    run = shlex.quote(shown_path(folder))
    if folder.parent == RUNS:
        ways = {
            "make sample ARGS='--tokens 500'": "let it write more",
            f"make report RUNS={run}": "a page with its loss curves",
            "make menuconfig": "change an option; make trains again",
            'make compare OPTIMIZERS="adamw muon" TIME=10m': "which one is better",
            "docs/tutorial.md": "an hour with it, step by step",
        }
    else:
        ways = {
            f"python3 gpt2/sample.py --run {run} --tokens 500": "let it write more",
            f"python3 gpt2/evaluate.py --run {run}": "measure the loss again",
            f"python3 scripts/report.py --runs {run}": "a page with its loss curves",
            "docs/tutorial.md": "an hour with it, step by step",
        }
    width = max(map(len, ways))
    lines = [f"{command:{width}}   {what}" for command, what in ways.items()]
    return [f"next: {lines[0]}", *(f"      {line}" for line in lines[1:])]


def make_adds(code: Exit, resumable: bool = True) -> list[str]:
    """Return what make's own last line means, if make started this process; else nothing."""
    if not started_by_make():
        return []
    meaning = "stopped early, can be resumed" if resumable else "stopped early, nothing is broken"
    return [f'make adds "Error {code.value}", which only means: {meaning}']


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
        said = "stopped at once; the run had not started"
        return "\n".join([said, *make_adds(Exit.INTERRUPTED, resumable=False)])
    return "stopping once the run has started; Ctrl-C again stops now, and nothing is lost"


def stopped_at_once(saved: int | None, folder: Path) -> str:
    """Return the answer to the second Ctrl-C; `saved` is the step of the last checkpoint."""
    said = "stopped at once; nothing was saved"
    if saved is not None:
        way = f"the same command with --run-dir {shown_path(folder)}"
        if folder.parent == RUNS:
            way = "make resume"
        said = f"stopped at once; nothing saved since step {saved}: {way} continues from there"
    return "\n".join([said, *make_adds(Exit.INTERRUPTED, saved is not None)])


def way_back(saved: int | None, folder: Path) -> str:
    """Return how to resume a run that ended; `saved` is the step of the last checkpoint."""
    again = f"the same command with --run-dir {shown_path(folder)}"
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
