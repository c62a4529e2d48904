"""Letters instead of numbers: for rows without a short name, and for lists of notes."""

from __future__ import annotations


def letter(number: int) -> str:
    """Return the letters for a number: A, B, ..., Z, AA, AB, ..."""
    before, last = divmod(number, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + last)
