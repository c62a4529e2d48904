"""A stream that is a terminal, and keeps what was written to it."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """Text of a terminal, with its control characters."""

    def isatty(self) -> bool:
        """Say that it is one."""
        return True
