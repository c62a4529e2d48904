"""Letters for other differences between compared rows, so that each is explained once."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.config.text import joined
from scripts.reports.comparisons import Comparison, Table
from scripts.reports.confounds import confounds
from scripts.reports.letters import letter

#: The heading over the list.
HEADING = "What else differs"


class Legend:
    """A letter for each such difference on a page, in the order of its comparisons.

    Pairs that are not compared have none: the page gives the reasons instead.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self._texts: dict[int, str] = {}
        self._letters: dict[str, str] = {}
        for found in (found for table in tables for found in table.comparisons):
            phrases = confounds(found.row, found.against) if found.difference else []
            if phrases:
                text = self._texts[id(found)] = joined(phrases)
                self._letters.setdefault(text, letter(len(self._letters)).lower())

    def mark(self, found: Comparison) -> str:
        """Return the letter of a comparison in brackets; empty without further differences."""
        text = self._texts.get(id(found))
        return "" if text is None else f"[{self._letters[text]}]"

    @property
    def sentences(self) -> tuple[str, ...]:
        """Return the meaning of each letter: the row's value first, then that of the other."""
        return tuple(f"[{letter}] {text}" for text, letter in self._letters.items())
