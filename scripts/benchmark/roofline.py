"""Predicted speed of the GPU defconfigs on known cards, from counted bytes and FLOP.

Nothing is measured. Every kernel takes the longer of its two times, at usual shares of the vendor's
numbers. The host counts as fast enough, and saving, evaluating and reading data as free. So a
prediction is an upper limit, and shows where the time would go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2.config.actions import NoActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.schema import REPOSITORY
from gpt2.config.text import markdown_table
from gpt2.config.typed import Config
from gpt2.machine.cards import CARDS
from gpt2.model.build import palm_flops
from gpt2.planning.plan import plan
from gpt2.planning.step import peak_of
from scripts import flags
from scripts.benchmark.traffic import Traffic, count
from scripts.benchmark.vocabulary import usual_vocabulary

#: Cards of the table, and the bytes of memory that a process finds on each.
MEMORY = {"L4": 23.6e9, "W7900": 48e9, "A100": 84e9, "H100": 84e9, "H200": 149e9}
#: Assumed shares of the vendor's matrix speed and memory bandwidth.
PRODUCTS, BANDWIDTH = 0.6, 0.9
#: Bytes per parameter that norm, clipping and fused AdamW move: gradients read, read and written;
#: then four fp32 numbers read and three written.
_OPTIMIZER = 4 * (1 + 2 + 7)


def gpu_defconfigs() -> list[Path]:
    """Return the defconfigs for GPUs: those that compile."""
    paths = sorted((REPOSITORY / "defconfigs").glob("[!.]*"))
    return [path for path in paths if "CONFIG_COMPILE=y" in path.read_text(encoding="utf-8")]


def main(given: Sequence[str]) -> str:
    """Return the table of all GPU defconfigs; the flags `given` are added to each."""
    rows = [row for path in gpu_defconfigs() for row in _rows(path, given)]
    titles = ["defconfig", "micro-batch", "GB/step", "TFLOP/step"]
    titles += [f"{name}: tokens/s (MFU)" for name in MEMORY]
    note = (
        "PREDICTED, never measured: every kernel at the slower of "
        f"{PRODUCTS:.0%} of the stated matrix FLOP/s and {BANDWIDTH:.0%} of the stated bandwidth, "
        "compiled kernels taken as joined; no limits of power, host, disk or evaluation. "
        "A dash: does not fit by the memory plan."
    )
    return f"{note}\n\n{markdown_table(titles, rows)}"


def _rows(path: Path, given: Sequence[str]) -> list[list[str]]:
    argv = [*flags.flags(path), *given, "--device", "auto"]
    config = bind(parse("bench.py", "", argv, NoActions)[0])
    found = predict(config)
    training = config.train
    micro = f"{training.batch_size} x {config.model.block_size}"
    if training.gradient_accumulation > 1:
        micro = f"{training.gradient_accumulation} x {micro}"
    cells = []
    for name in MEMORY:
        card = found["cards"][name]
        speed = f"{card['tokens_per_second']:,.0f} ({card['mfu']:.2f})" if card["fits"] else "-"
        cells.append(speed)
    return [
        [path.name, micro, f"{found['bytes'] / 1e9:.0f}", f"{found['flops'] / 1e12:.0f}", *cells]
    ]


def predict(config: Config) -> dict[str, Any]:
    """Return the bytes and FLOP of a step of `config` in bf16, and its speed on each card."""
    vocabulary = usual_vocabulary(config)
    traffic = count(config, vocabulary, "bf16", compiled=bool(config.machine.compile))
    optim = dataclasses.replace(config.optim, precision="bf16")
    planned = plan(dataclasses.replace(config, optim=optim), vocabulary, plan_for=10**12)
    needed = planned.budget.needed(peak_of(planned.shape))
    parameters, micro_steps = planned.shape.parameters, config.train.gradient_accumulation
    tokens = config.train.batch_size * config.model.block_size * micro_steps
    return {
        "bytes": micro_steps * traffic.moved + _OPTIMIZER * parameters,
        "flops": micro_steps * traffic.flops,
        "cards": {
            name: {
                "fits": needed <= memory,
                **_speed(name, traffic, parameters, tokens, micro_steps, config),
            }
            for name, memory in MEMORY.items()
        },
    }


def _speed(
    name: str, traffic: Traffic, parameters: int, tokens: int, micro_steps: int, config: Config
) -> dict[str, float]:
    card = CARDS[name]
    bandwidth = BANDWIDTH * card.bandwidth
    seconds = micro_steps * traffic.seconds(PRODUCTS * card.flops, bandwidth)
    seconds += _OPTIMIZER * parameters / bandwidth
    speed = tokens / seconds
    return {
        "tokens_per_second": speed,
        "mfu": speed * palm_flops(config.model, parameters) / card.flops,
    }
