"""Colour on a terminal: bold, yellow and red; none if NO_COLOR is set."""

from __future__ import annotations

import os
from typing import Literal, TextIO

Style = Literal["bold", "yellow", "red"]
_CODES: dict[Style, str] = {"bold": "1", "yellow": "33", "red": "1;31"}


def painted(text: str, style: Style, stream: TextIO) -> str:
    """Return `text` in a style if `stream` is a terminal; else unchanged.

    https://no-color.org: any value of NO_COLOR but the empty one switches colour off.
    """
    if os.environ.get("NO_COLOR") or not draws(stream):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def draws(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal that can do more than print lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
