"""What was measured on a card: its allocator's peak over the planned one, kept for later plans."""

from __future__ import annotations

import json
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.files.atomic import replace_file
from gpt2.files.json import read_object

#: Not part of the repository: it says something of this machine.
FILE = Path(__file__).resolve().parents[2] / ".memory.json"


def ratio_of(card: str, file: Path = FILE) -> float | None:
    """Return reserved over planned bytes as measured on `card`; None where nothing was measured.

    Raises UserError for a file that cannot be read.
    """
    if not file.exists():
        return None
    try:
        ratio = read_object(file).get(card)
        if ratio is not None and not (isinstance(ratio, int | float) and 0.5 < ratio < 2.0):
            raise ValueError(f"{ratio!r} of {card} is no ratio")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}): remove it, and scripts/bench.py --memory measures "
            "anew"
        ) from error
    return None if ratio is None else float(ratio)


def store_ratio(card: str, ratio: float, file: Path = FILE) -> None:
    """Keep what was measured on `card`."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    replace_file(file, json.dumps({**found, card: round(ratio, 4)}, indent=2) + "\n")
