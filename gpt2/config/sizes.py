"""Sizes of memory and durations as users write them: 6G, 500M, 6.00 GB; 90s, 5m, 1h."""

from __future__ import annotations

import re

_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT])(i?B)?", re.ASCII)


def parse_size(text: str) -> int:
    """Return the bytes of "6G", "6GB" (powers of 1000) or "6GiB" (powers of 1024).

    Raises ValueError for anything else; a number needs a unit.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a size; write 6G, 500M or 6GiB")
    base = 1024 if found[3] == "iB" else 1000
    # In whole numbers: a float could lose a byte.
    whole, _, part = found[1].partition(".")
    unit = int(base ** _UNITS[found[2]])
    return int(whole) * unit + (int(part) * unit // int(10 ** len(part)) if part else 0)


def show_size(size: float) -> str:
    """Return bytes for people, in powers of 1000: 734 MB, 6.25 GB."""
    return f"{size / 1e9:.2f} GB" if abs(size) >= 1e9 else f"{size / 1e6:.0f} MB"


def in_seconds(text: str) -> str:
    """Return the seconds of "90s", "5m", "1h", "2d" or "1h30m" as digits; else the text itself."""
    parts = re.findall("([0-9]+)([smhd])", text, re.ASCII)
    if not parts or "".join(map("".join, parts)) != text:
        return text
    return str(sum(int(count) * _SECONDS[unit] for count, unit in parts))
