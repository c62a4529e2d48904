"""What a session says as it begins: what runs, where, for how long, and what else to know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2.config.typed import Config
from gpt2.data.tokens import TokenFile
from gpt2.model.gpt import GPT
from gpt2.optim.precision import emulated
from gpt2.planning.duration import Left, predicted_seconds
from gpt2.run_dir.console import Console
from gpt2.run_dir.resume import equal_unfinished
from gpt2.session import messages
from gpt2.training.loop import Clock, Parts


def introduce(
    config: Config,
    model: GPT,
    parts: Parts,
    clock: Clock,
    data: Mapping[str, TokenFile],
    record: Mapping[str, Any],
    folder: Path,
    console: Console,
) -> None:
    """Say what a user may want to know before waiting; `record` is what run.json says."""
    batches, sparsity = parts.batches, parts.pruner.sparsity()
    facts = {
        **record,
        "model": config.model.model,
        "parameters": model.parameter_count(),
        "block": config.model.block_size,
        "dataset": config.data.dataset,
        "tokens": len(data["train"].ids),
        "steps": clock.steps,
        "batch": batches.effective_batch,
        "epochs": (clock.steps or 0) * batches.effective_batch / batches.sequences,
        "max_time": config.train.max_time,
        "folder": folder,
        "pruning": config.prune and config.prune.pruning_method,
        "pattern": config.prune and config.prune.sparsity_pattern,
        "sparsity_asked": sparsity.asked,
        "prunable": sum(model.get_parameter(name).numel() for name in sparsity.layers),
    }
    for line in messages.introduction(facts):
        console.say(line)
    device = parts.precision.device
    if emulated(parts.precision.name, device):
        console.warn(
            "--precision bf16: this CPU has no bf16 instructions and is about a hundred times "
            "slower in it; use --precision fp32"
        )
    if device.type == "cpu" and clock.steps is not None:
        limit = clock.max_time and clock.max_time - clock.elapsed
        left = Left(clock.steps - clock.step, batches.effective_batch, limit, len(data["val"].ids))
        for line in messages.cpu_warning(predicted_seconds(config, model.parameter_count(), left)):
            console.say(line)
    if clock.step or not parts.ranks.first:
        return
    if (other := equal_unfinished(config, folder)) is not None:
        path = messages.shown(other)
        console.say(f"an unfinished run of the same options is in {path}: --run-dir {path} goes on")
