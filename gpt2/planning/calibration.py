"""Measurements kept on this machine: a card's peak over the plan, a CPU's gain from bf16."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.files.atomic import replace_file
from gpt2.files.json import read_object
from gpt2.machine.processor import bf16_instructions, processor_name

#: Not part of the repository: it describes this machine.
FILE = Path(__file__).resolve().parents[2] / ".memory.json"
#: For CPUs: the speed of bf16 over fp32.
GAINS = FILE.with_name(".bf16.json")

#: Gain for which --precision auto takes bf16 on a CPU: 1.3 times the speed, and 10 % margin for a
#: measurement of half a second.
LEAST_GAIN = 1.3 * 1.1
#: Smallest width for bf16 on a CPU; narrower models take fp32 unmeasured. On a Zen 4, bf16 steps
#: had 0.8 to 1.0 times the speed at widths 96 and 128, and 1.4 times at 256. Casts and small
#: products cost the same there.
LEAST_WIDTH = 256


@dataclass(frozen=True)
class Choice:
    """The outcome of --precision auto, and why; `decided`: a measurement would not change it."""

    precision: str
    why: str
    decided: bool


def ratio_of(card: str, file: Path = FILE) -> float | None:
    """Return reserved over planned bytes as measured on `card`; None without a measurement.

    Raises UserError for a file that cannot be read.
    """
    if not file.exists():
        return None
    try:
        ratio = read_object(file).get(card)
        if ratio is not None and not (isinstance(ratio, int | float) and 0.5 < ratio < 2.0):
            raise ValueError(f"{ratio!r} of {card} is not a ratio")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}): remove it, and scripts/bench.py --memory measures "
            "it again"
        ) from error
    return None if ratio is None else float(ratio)


def store_ratio(card: str, ratio: float, file: Path = FILE) -> None:
    """Store the measurement on `card`."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    replace_file(file, json.dumps({**found, card: round(ratio, 4)}, indent=2) + "\n")


def gain_of(cpu: str, file: Path = GAINS) -> float | None:
    """Return the speed of bf16 over fp32 on `cpu`; None without a measurement.

    Raises UserError for a file that cannot be read.
    """
    if not file.exists():
        return None
    try:
        gain = read_object(file).get(cpu)
        if gain is not None and not (isinstance(gain, int | float) and 0.0 < gain < 1000.0):
            raise ValueError(f"{gain!r} of {cpu} is not a gain")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}): remove it, and train.py --measure-precision "
            "measures anew"
        ) from error
    return None if gain is None else float(gain)


def store_gain(cpu: str, gain: float, file: Path = GAINS) -> None:
    """Store the speed of bf16 over fp32 on `cpu`."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    replace_file(file, json.dumps({**found, cpu: round(gain, 3)}, indent=2) + "\n")


def cpu_key() -> str:
    """Return the key of a gain: the CPU's model, its instructions, and torch's version."""
    instructions = ", ".join(bf16_instructions())
    return f"{processor_name()} ({instructions}), torch {metadata.version('torch')}"


def kept_choice(width: int, file: Path = GAINS) -> Choice:
    """Return the outcome of --precision auto for a model of this width, from stored measurements.

    Imports no torch. Raises UserError for a file that cannot be read.
    """
    if not bf16_instructions():
        return Choice("fp32", "this CPU has no bf16 instructions", decided=True)
    if width < LEAST_WIDTH:
        why = f"a model under {LEAST_WIDTH} wide is no faster in bf16 on a CPU"
        return Choice("fp32", why, decided=True)
    gain = gain_of(cpu_key(), file)
    if gain is None:
        return Choice("fp32", "bf16 is not measured on this CPU yet", decided=False)
    return choice_by(gain)


def choice_by(gain: float) -> Choice:
    """Return the outcome of --precision auto where bf16 is `gain` times as fast as fp32."""
    enough = gain >= LEAST_GAIN
    why = f"bf16 is {gain:.2f} times as fast on this CPU, {LEAST_GAIN:.2f} are asked for"
    return Choice("bf16" if enough else "fp32", why, decided=True)
