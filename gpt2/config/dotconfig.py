"""The lines of a .config: CONFIG_NAME=value, or "# CONFIG_NAME is not set"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt2.config.errors import UserError

_LINE = re.compile(r"CONFIG_([A-Za-z0-9_]+)=(.*)")
_UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set(.*)")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Line:
    """One setting: `name` and its value as written, "n" if it is not set.

    problem: the line's problem; the name and the value are then empty.
    """

    number: int
    name: str = ""
    value: str = ""
    unset: bool = False
    problem: str = ""


def read_text(path: Path) -> str:
    """Return the content of a .config.

    Raises UserError when it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from error


def lines_of(text: str) -> Iterator[Line]:
    """Yield the settings of a .config, without blank lines and comments; bad lines as problems."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip()
        unset = _UNSET.fullmatch(line)
        if not line or (line.startswith("#") and not unset):
            continue
        match = unset or _LINE.fullmatch(line)
        if match is None:
            yield Line(number, problem=f"{line!r} is not a CONFIG_NAME=value line")
        elif unset and unset[2]:
            yield Line(number, problem=f"{line!r} has a comment after it; move or drop that")
        else:
            yield Line(number, match[1], "n" if unset else match[2], unset is not None)


def unquoted(value: str) -> str | None:
    """Return the text of a quoted value; None if it is not quoted, or more follows."""
    quoted = _STRING.fullmatch(value)
    return None if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1])
