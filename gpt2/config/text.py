"""Numbers and lists for people."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 run, 2 runs."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def joined(names: Sequence[str]) -> str:
    """Return a list in words: a, b and c."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def shortened(names: Iterable[str], most: int) -> str:
    """Return the first `most` names, and how many more there are: a, b and 2 more."""
    every = list(names)
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")


def items(text: str) -> list[str]:
    """Return the words of a typed list, separated by commas or blanks."""
    return [word for word in re.split(r"[\s,]+", text) if word]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type without a message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def last_line(text: str) -> str:
    """Return the last line of a text; empty if it has none."""
    return "".join(text.splitlines()[-1:])


def shown_path(path: Path) -> str:
    """Return a path as the user would type it: relative where it is below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def pip_install(what: str) -> str:
    """Return the command that installs a package into the Python that is running."""
    return shlex.join([sys.executable, "-m", "pip", "install", what])


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; cells are not escaped."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def duration(seconds: float) -> str:
    """Return a measured time: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rough_duration(seconds: float) -> str:
    """Return an expected time: 42 s, 3 min, 2.2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def predicted_duration(seconds: float) -> str:
    """Return a predicted time without false precision: 1 to 3 min, 2 to 5 days.

    The prediction is from one matrix product: runs took 0.8 to 1.6 times as long.
    """
    low, high = 0.8 * seconds, 1.6 * seconds
    units = (("days", 86400), ("h", 3600), ("min", 60))
    unit, size = next((each for each in units if high >= 2 * each[1]), ("s", 1))
    least, most = max(1, round(low / size)), max(1, round(high / size))
    if unit == "s" and least > 10:
        least, most = 5 * round(low / 5), 5 * round(high / 5)
    return f"{least} to {most} {unit}" if least < most else f"{most} {unit}"


def argument_text(argument: str) -> str:
    """Return an argument as text, whatever the locale made of its bytes.

    Where the locale has no such character, Python keeps the byte as half a surrogate pair. Raises
    ValueError.
    """
    try:
        argument.encode()
        return argument
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} of {argument!r} is not UTF-8; give text") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{argument!r} has half a character at {error.start}") from None
