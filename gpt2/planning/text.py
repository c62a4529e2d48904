"""A plan for people and programs: memory by kind, disk, length, time, verdict and remedies."""

from __future__ import annotations

from typing import Any

from gpt2.config.sizes import show_size
from gpt2.config.text import duration, predicted_duration
from gpt2.config.typed import Config
from gpt2.data.tokens import TokenFile
from gpt2.planning.duration import Left, predicted
from gpt2.planning.ledger import KINDS
from gpt2.planning.plan import INTERPRETER, Planned
from gpt2.planning.step import peak_of

#: Most checkpoints on disk at once: the last two, the best, and the one being written.
_CHECKPOINTS = 4
#: Bytes from which a row of the plan is shown: fewer would read 0 MB.
_SHOWN = 500_000
#: Layers and width of the model of gpt2-shakespeare-char-cpu.
_LAYERS, _WIDTH = 2, 128


def facts(planned: Planned, data: dict[str, TokenFile] | None, steps: int | None) -> dict[str, Any]:
    """Return the plan as JSON, in bytes and seconds; None: unknown.

    `data` are the splits if they are prepared; `steps` is the length of the run.
    """
    config, shape, budget = planned.config, planned.shape, planned.budget
    peak = peak_of(shape)
    seconds, length = None, "on a device of unknown speed"
    if data is None:
        length = "time unknown until the data are prepared"
    limit = float(config.train.max_time) or None
    if (steps is not None or limit) and data is not None and planned.device.type == "cpu":
        test = len(data["test"].ids) if "test" in data else 0
        left = Left(steps, planned.effective, limit, len(data["val"].ids), test, started=False)
        time = predicted(config, shape.parameters, left)
        seconds, length = time.seconds, str(time)
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
        "resident": peak.resident,
        "device": planned.device.type,
        "pool": budget.name,
        "pool_size": budget.size,
        "pool_most": budget.most,
        "needed": budget.needed(peak),
        "host": planned.host,
        "checkpoint": shape.checkpoint,
        "tokens_per_step": planned.effective * shape.block,
        "steps": steps,
        "max_time": limit,
        "seconds": seconds,
        "time": length,
        "fits": planned.fits,
        "fixes": [] if planned.fits else [remedy.flags for remedy in planned.remedies()],
    }


def lines(planned: Planned, told: dict[str, Any]) -> list[str]:
    """Return the plan as text; `told` is the result of facts()."""
    budget = planned.budget
    micro = f"{told['batch_size']} x {told['block_size']} tokens"
    if told["gradient_accumulation"] > 1:
        micro += f", accumulated {told['gradient_accumulation']} times"
    text = [
        *without_gpu(planned),
        f"memory plan: {told['model']}, {told['parameters'] / 1e6:.1f} M parameters, {micro}, "
        f"{told['precision']}, {told['optimizer']}, {told['attention']} attention, "
        f"activation checkpointing {told['activation_checkpointing']}",
    ]
    text += [
        f"  {kind:<16}{show_size(told['held'][kind]):>10}"
        for kind in KINDS
        if told["held"][kind] >= _SHOWN
    ]
    text.append(f"  {'peak':<16}{show_size(told['peak']):>10}   ({told['phase']})")
    text += [
        f"  {'+ ' + name:<16}{show_size(size):>10}   ({what})"
        for name, size, what in budget.beyond(told["peak"], told["resident"])
        if size >= _SHOWN
    ]
    text.append(f"  {'needed':<16}{show_size(told['needed']):>10}")
    there = "unknown" if budget.size is None else show_size(budget.size)
    text.append(f"  {'available':<16}{there:>10}   {budget.name}")
    text.append(f"  {'host memory':<16}{show_size(told['host']):>10}   {_of_host(planned)}")
    text.append(
        f"  {'disk':<16}{show_size(_CHECKPOINTS * told['checkpoint']):>10}   at most "
        f"{_CHECKPOINTS} checkpoints of {show_size(told['checkpoint'])}"
    )
    return [*text, _length(told), *verdict(planned, told)]


def _of_host(planned: Planned) -> str:
    """Return what the host memory of a plan consists of."""
    if planned.device.type == "cpu":
        return f"(what is needed, and {show_size(INTERPRETER)} for Python and torch)"
    return "(with Python, torch and CUDA's libraries)"


def _length(told: dict[str, Any]) -> str:
    limit = told["max_time"]
    if told["steps"] is None and limit is None:
        return "  length: unknown until the data are prepared"
    parts = []
    if told["steps"] is not None:
        tokens = told["steps"] * told["tokens_per_step"]
        parts = [
            f"{told['steps']:,} steps of {told['tokens_per_step']:,} tokens",
            f"{tokens:,} in all",
        ]
    if limit is not None:
        parts.append(f"at most {duration(limit)} of training")
    return f"  length: {', '.join([*parts, told['time']])}"


def without_gpu(planned: Planned) -> list[str]:
    """Return a line if the plan is for the CPU though --device did not say so; else none."""
    if planned.device.type != "cpu" or planned.config.machine.device != "auto":
        return []
    return [
        f"no GPU that torch can use: planning for the CPU in {planned.precision}; "
        "--plan-for 24G plans for a GPU of 24 GB"
    ]


def minutes_on_cpu(config: Config) -> str:
    """Return how to get a run of minutes on a CPU; empty where the model is as small already."""
    model = config.model
    if model.n_layer * model.n_embd**2 <= _LAYERS * _WIDTH**2:
        return ""
    return "for a run of minutes on a CPU: make defconfig-gpt2-shakespeare-char-cpu && make"


def verdict(planned: Planned, told: dict[str, Any]) -> list[str]:
    """Return whether it fits, and changes that make it fit."""
    size = planned.budget.size
    if size is None:
        return [f"verdict: cannot tell whether it fits: {planned.budget.name} is unknown"]
    if told["fits"]:
        takes = ""
        if told["seconds"] is not None:
            takes = f", and takes about {predicted_duration(told['seconds'])}"
        return [f"verdict: it fits, {show_size(size - told['needed'])} to spare{takes}"]
    said = [
        f"verdict: it does not fit: needs {show_size(told['needed'])}, available are "
        f"{show_size(size)} of {planned.budget.name}"
    ]
    remedies = planned.remedies()
    said += [f"  it fits with {remedy.flags}   ({remedy.cost})" for remedy in remedies]
    if not remedies:
        said.append(
            "  no micro-batch fits: choose a smaller --model, --block-size or another device"
        )
    return said
