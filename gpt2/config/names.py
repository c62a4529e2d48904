"""Names of options as symbol, flag and value, and the known names nearest to a wrong one."""

from __future__ import annotations

import difflib
import re

from gpt2.config.typed import LIMITS


def flag_of(name: str) -> str:
    """Return the flag of a symbol: GRAD_CLIP -> --grad-clip."""
    return "--" + name.lower().replace("_", "-")


def word_of(member: str, choice: str) -> str:
    """Return the value of a choice's member in flags: PRECISION_BF16 -> bf16, _2_4 -> 2:4."""
    word = member[len(choice) + 1 :].lower()
    return word.replace("_", ":" if re.fullmatch("[0-9]+_[0-9]+", word) else "-")


def value_text(name: str, value: object) -> str:
    """Return the value of an option for people: 0 of a limit is "no limit"."""
    return "no limit" if name in LIMITS and str(value) in ("0", "0.0") else str(value)


def nearest(name: str, known: list[str], most: int = 3, likeness: float = 0.5) -> str:
    """Return a hint with the `most` known words most like `name`, or nothing."""
    close = difflib.get_close_matches(name, known, n=most, cutoff=likeness)
    return f"; did you mean {' or '.join(close)}?" if close else ""
