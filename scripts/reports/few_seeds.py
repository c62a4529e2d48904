"""Sentences about comparisons with too few seeds for a claim: the difference so far, and why."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.config.text import counted
from scripts.reports.comparisons import Comparison
from scripts.reports.rows import paired_differences
from scripts.reports.statistics import FEWEST
from scripts.reports.words import name_beside, range_text, signed, span_of

#: Most differences in a sentence; of more, only the largest.
_MOST = 5
#: What makes a claim possible.
WAY_OUT = f"With {FEWEST} it can be one (make compare: SEEDS={FEWEST})."


def so_far(found: Comparison) -> str:
    """Return a sentence with the difference of two rows: its seeds, its mean and its interval."""
    row, against = found.row.label, name_beside(found.against, found.row)
    word, seeds = _direction(found)
    size = _size(found, " nats per token")
    return f"So far {row} is {_relation(word, against)} in {seeds}: {size}."


def no_claim(found: Sequence[Comparison], pairs_of: bool = False) -> str:
    """Return why these comparisons have no claim, and their differences so far.

    pairs_of: each has another row that it is compared with, so that row is named, too.
    """
    shown = found
    if len(found) > _MOST:
        shown = sorted(found, key=lambda c: -abs(_mean(c)))[:_MOST]
    each = [_listed(c, pairs_of) for c in shown]
    more = f", the largest of {len(found)}" if len(found) > _MOST else ""
    return f"{why_no_claim(found)} So far{more}: {'; '.join(each)}."


def _listed(found: Comparison, pairs_of: bool) -> str:
    word, seeds = _direction(found)
    relation = _relation(word, found.against.label) if pairs_of else word
    return f"{name_beside(found.row, found.against)} is {relation} in {seeds} ({_size(found)})"


def why_no_claim(found: Sequence[Comparison]) -> str:
    """Return sentences that say why these comparisons have no claim.

    Which differences their seeds would show is said only where none has a larger one already.
    """
    text = f"fewer than {FEWEST} seeds"
    if all(c.detectable is None for c in found):
        seeds = counted(max(_count(c) for c in found), "seed")
        return f"{text}: {seeds} cannot tell a difference from chance."
    sizes = [c.detectable for c in found if c.detectable is not None]
    if any(c.detectable is not None and abs(_mean(c)) >= c.detectable for c in found):
        return f"{text}."
    seeds = counted(max(_count(c) for c in found), "seed")
    span = span_of(sizes, ".2g")
    return f"{text}, and with {seeds} only differences above about {span} would show."


def _direction(found: Comparison) -> tuple[str, str]:
    """Return how the first row's mean lies to the other's, and in how many of the seeds."""
    values, mean = paired_differences(found.row, found.against), _mean(found)
    word = "lower" if mean < 0.0 else "higher" if mean > 0.0 else "equal"
    alike = sum(value * mean > 0.0 if mean else value == 0.0 for value in values)
    return word, f"{alike} of {counted(len(values), 'seed')}"


def _relation(word: str, other: str) -> str:
    return f"{word} {'to' if word == 'equal' else 'than'} {other}"


def _size(found: Comparison, unit: str = "") -> str:
    """Return the mean difference with its 95 % interval, where there is one."""
    reach = range_text(found)
    return f"{signed(_mean(found))}{unit}" + (f", 95 % interval {reach}" if reach else "")


def _mean(found: Comparison) -> float:
    assert found.difference is not None
    return found.difference.mean


def _count(found: Comparison) -> int:
    assert found.difference is not None
    return found.difference.count
