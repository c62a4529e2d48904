"""A plan for people and for programs: memory by kind, disk, length, time, verdict and way out."""

from __future__ import annotations

from typing import Any

from gpt2.config.sizes import show_size
from gpt2.config.text import duration
from gpt2.data.tokens import TokenFile
from gpt2.planning.duration import Left, predicted_seconds
from gpt2.planning.ledger import KINDS
from gpt2.planning.plan import Planned
from gpt2.planning.step import peak_of

#: Checkpoints that lie there at once: the two last, the best, and the one being written.
_CHECKPOINTS = 4


def facts(planned: Planned, data: dict[str, TokenFile] | None, steps: int | None) -> dict[str, Any]:
    """Return the plan as JSON, bytes and seconds; None is what is not known.

    `data` are the splits where they are prepared; `steps` the length of the run.
    """
    config, shape, budget = planned.config, planned.shape, planned.budget
    peak = peak_of(shape)
    seconds = None
    if steps is not None and data is not None and planned.device.type == "cpu":
        test = len(data["test"].ids) if "test" in data else 0
        left = Left(steps, planned.effective, None, len(data["val"].ids), test)
        seconds = predicted_seconds(config, shape.parameters, left)
    return {
        "model": config.model.model,
        "parameters": shape.parameters,
        "batch_size": shape.batch,
        "gradient_accumulation": config.train.gradient_accumulation,
        "block_size": shape.block,
        "precision": planned.precision,
        "attention": shape.attention,
        "activation_checkpointing": shape.checkpointing,
        "optimizer": config.optim.optimizer,
        "held": dict(peak.held),
        "peak": peak.total,
        "phase": peak.phase,
        "device": planned.device.type,
        "pool": budget.name,
        "pool_size": budget.size,
        "pool_most": budget.most,
        "needed": budget.needed(peak),
        "host": planned.host,
        "checkpoint": shape.checkpoint,
        "tokens_per_step": planned.effective * shape.block,
        "steps": steps,
        "seconds": seconds,
        "fits": planned.fits,
        "fixes": [] if planned.fits else [remedy.flags for remedy in planned.remedies()],
    }


def lines(planned: Planned, told: dict[str, Any]) -> list[str]:
    """Return the plan as text; `told` are its facts."""
    budget = planned.budget
    micro = f"{told['batch_size']} x {told['block_size']} tokens"
    if told["gradient_accumulation"] > 1:
        micro += f", accumulated {told['gradient_accumulation']} times"
    text = [
        f"memory plan: {told['model']}, {told['parameters'] / 1e6:.1f} M parameters, {micro}, "
        f"{told['precision']}, {told['optimizer']}, {told['attention']} attention, "
        f"activation checkpointing {told['activation_checkpointing']}"
    ]
    text += [
        f"  {kind:<16}{show_size(told['held'][kind]):>10}" for kind in KINDS if told["held"][kind]
    ]
    text.append(f"  {'peak':<16}{show_size(told['peak']):>10}   ({told['phase']})")
    extra = []
    if budget.reserved != 1.0:
        what = "heap keeps in holes" if budget.heap else "allocator reserves"
        extra.append(f"{budget.reserved - 1:.0%} for what the {what}")
    if budget.besides:
        extra.append(f"{show_size(budget.besides)} for CUDA: assumed, not measured")
    there = "; of unknown size"
    if budget.size is not None:  # a size that was asked for is in the name already
        size = show_size(budget.size)
        there = "" if size in budget.name else f"; there are {size}"
    text.append(
        f"  {'needed':<16}{show_size(told['needed']):>10}   of {budget.name}{there}"
        + (f"; with {', '.join(extra)}" if extra else "")
    )
    text.append(f"  {'host memory':<16}{show_size(told['host']):>10}   with Python and torch")
    text.append(
        f"  {'disk':<16}{show_size(_CHECKPOINTS * told['checkpoint']):>10}   at most "
        f"{_CHECKPOINTS} checkpoints of {show_size(told['checkpoint'])}"
    )
    return [*text, _length(told), *verdict(planned, told)]


def _length(told: dict[str, Any]) -> str:
    if told["steps"] is None:
        return "  length: not known before the data are prepared, or time ends the run"
    tokens = told["steps"] * told["tokens_per_step"]
    time = "on a device whose speed is not known"
    if told["seconds"] is not None:
        time = f"about {duration(told['seconds'])}"
    steps = f"{told['steps']:,} steps of {told['tokens_per_step']:,} tokens"
    return f"  length: {steps}, {tokens:,} in all, {time}"


def verdict(planned: Planned, told: dict[str, Any]) -> list[str]:
    """Say whether it fits; where it does not, what would."""
    size = planned.budget.size
    if size is None:
        return [f"verdict: cannot tell whether it fits: {planned.budget.name} is unknown"]
    if told["fits"]:
        return [f"verdict: it fits, {show_size(size - told['needed'])} are left"]
    said = [
        f"verdict: it does not fit: {show_size(told['needed'])} are needed of "
        f"{planned.budget.name}, and {show_size(size)} are there"
    ]
    remedies = planned.remedies()
    said += [f"  it fits with {remedy.flags}   ({remedy.cost})" for remedy in remedies]
    if not remedies:
        said.append(
            "  no micro-batch fits: choose a smaller --model, --block-size or another device"
        )
    return said
