"""The outcome of --precision auto; on a CPU with bf16 instructions it measures."""

from __future__ import annotations

import dataclasses
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gpt2.config.typed import Config, ModelConfig
from gpt2.machine.device import resolve_device
from gpt2.machine.processor import has_bf16, loaded
from gpt2.model.build import build_model
from gpt2.optim.precision import DTYPES, resolve_precision
from gpt2.planning.calibration import (
    GAINS,
    LEAST_WIDTH,
    Choice,
    choice_by,
    cpu_key,
    kept_choice,
    store_gain,
)
from gpt2.run_dir.folder import read_json

#: Seconds of the measurement, and its fewest pairs of passes.
_SECONDS, _LEAST_PAIRS = 0.5, 3
#: The measured model: one layer of gpt2-mini, a sixth of its vocabulary, and 256 tokens.
_VOCABULARY = 8192
_SHAPE = {
    "n_layer": 1,
    "n_head": 6,
    "n_embd": 384,
    "block_size": 256,
    "dropout": 0.0,
    "flash_attention": True,
    "activation_checkpointing": "none",
    "residual_precision": "fp32",
    "loss": "chunked",
    "loss_chunk_mib": 0,
}


def choose(config: Config, device: torch.device, measure: bool, file: Path = GAINS) -> Choice:
    """Return the precision of `config` on `device`, and why where auto decided on a CPU.

    With `measure`, it measures bf16 for half a second if that decides, no result is stored, and the
    machine is not loaded. Raises UserError for stored results that cannot be read.
    """
    asked = config.optim.precision
    if asked != "auto" or device.type != "cpu":
        return Choice(resolve_precision(asked, device), "", decided=True)
    choice = kept_choice(config.model.n_embd, file)
    return _measured(config.model, file) if measure and not choice.decided else choice


def begun(config: Config, device: torch.device, run: Path | None) -> Choice | None:
    """Return the precision of the run in `run`, if auto continues with it.

    None without such a run, or if it began on a device of another type. Raises UserError for a
    run.json that cannot be read.
    """
    if config.optim.precision != "auto" or run is None or not (run / "run.json").is_file():
        return None
    record = read_json(run, "run.json")
    precision, there = record["precision"], record["device"].partition(":")[0]
    if precision not in DTYPES or there != device.type:
        return None
    return Choice(precision, record.get("precision_why") or "", decided=True)


def report(config: Config, file: Path = GAINS) -> str:
    """Measure bf16 again if the CPU has it and is not loaded; return what auto takes."""
    device = resolve_device(config.machine.device)
    if device.type != "cpu":
        return f"auto takes {resolve_precision('auto', device)} on this {device.type}"
    choice = kept_choice(config.model.n_embd, file)
    if has_bf16() and not (choice.decided and loaded()):
        measured = _measured(config.model, file)
        # For narrow models the measurement does not matter.
        choice = measured if config.model.n_embd >= LEAST_WIDTH else choice
    return f"auto takes {choice.precision} on this CPU: {choice.why}"


def _measured(like: ModelConfig, file: Path) -> Choice:
    """Measure bf16, store the result, and return what auto takes; fp32 on a loaded machine."""
    if loaded():
        why = (
            "bf16 is not measured while the machine is loaded (train.py --measure-precision does "
            "it later, --precision bf16 takes it unmeasured)"
        )
        return Choice("fp32", why, decided=False)
    gain = measure_gain(like)
    with suppress(OSError):  # a read-only folder: the next run measures again
        store_gain(cpu_key(), gain, file)
    return choice_by(gain)


def measure_gain(like: ModelConfig) -> float:
    """Return the speed of bf16 over fp32: passes alternate, median over the pairs.

    The measured model is `like`, with _SHAPE's sizes. The run's random state is unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        shape: Any = _SHAPE
        config = dataclasses.replace(like, **shape)
        model = build_model(config, _VOCABULARY, torch.device("cpu"), seed=0)
    ids = torch.arange(config.block_size).unsqueeze(0)

    def seconds(half: bool) -> float:
        start = time.perf_counter()
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(ids, ids)
        loss.backward()
        model.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    for half in (False, True):
        seconds(half)
    ratios: list[float] = []
    start = time.perf_counter()
    while len(ratios) < _LEAST_PAIRS or time.perf_counter() - start < _SECONDS:
        ratios.append(seconds(half=False) / seconds(half=True))
    return statistics.median(ratios)
