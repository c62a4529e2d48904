"""The first lines of a report: which row is better, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.config.text import counted, joined
from scripts.reports.comparisons import AGAINST_DENSE, Comparison, Table
from scripts.reports.few_seeds import WAY_OUT, so_far, why_no_claim
from scripts.reports.rows import Row
from scripts.reports.statistics import FEWEST, LEVEL
from scripts.reports.words import (
    at_sparsity,
    name_beside,
    p_text,
    percent,
    reach_text,
    span_of,
)

#: Outcomes that are claims, and those of a test that shows no difference.
CLAIMS, NOT_SHOWN = ("better", "worse"), ("undecided", "equal")
#: Most names in a sentence; more are only counted.
_MOST = 4


def headlines(tables: Sequence[Table]) -> list[str]:
    """Return the headlines: the answer at each sparsity, or why no claim is made."""
    compared = [c for table in tables for c in table.comparisons]
    if not any(table.rows for table in tables):
        return ["No run is finished: there is nothing to compare yet."]
    if not compared:
        return [_nothing(tables)]
    if not any(c.corrected is not None for c in compared):
        return [*([so_far(compared[0])] if told_in_full(tables) else []), _no_claim(tables)]
    return [text for table in tables if (text := _answer(table))] or [tally(tables)]


def tally(tables: Sequence[Table]) -> str:
    """Return the outcome of the tests of the page; empty where nothing was tested."""
    compared = [c for table in tables for c in table.comparisons]
    tested = [c for c in compared if c.corrected is not None]
    if not tested:
        return ""
    decided = sum(c.outcome in CLAIMS for c in tested)
    apart = sum(c.outcome == "undecided" for c in tested)
    undone = sum(c.outcome == "reversible" for c in tested)
    equal = len(tested) - decided - apart - undone
    text = f"Of {counted(len(tested), 'comparison')} tested, {_shows(decided)} a difference"
    text += f"; {apart} cannot be told apart" if apart else ""
    text += f"; {equal} equal to the last digit" if equal else ""
    text += f"; {undone} could be undone by failed seeds" if undone else ""
    if decided:
        text += f". The chance of any false claim on this page is at most {percent(LEVEL)}"
    rest = len(compared) - len(tested)
    return f"{text}." + (f" No claim is made on {rest} more; the verdict says why." if rest else "")


def shared_reasons(tables: Sequence[Table]) -> tuple[str, ...]:
    """Return why no rows can be compared, where the reasons are the same for every pair."""
    reasons = {c.objections for table in tables for c in table.comparisons}
    return reasons.pop() if len(reasons) == 1 else ()


def told_in_full(tables: Sequence[Table]) -> bool:
    """Return whether the headline has all about the only two rows, which have too few seeds."""
    compared = [c for table in tables for c in table.comparisons]
    return len(compared) == 1 and compared[0].outcome == "too few"


def _nothing(tables: Sequence[Table]) -> str:
    """Return why no pair of rows was compared."""
    if sum(len(table.rows) for table in tables) == 1:
        return "Nothing to compare: all these runs are one row."
    if any(table.lone for table in tables):
        return (
            "No claim: these rows have one seed each or cannot be compared, and a claim needs "
            f"{FEWEST} seeds."
        )
    return "Nothing to compare: no row has a control among these runs."


def _no_claim(tables: Sequence[Table]) -> str:
    """Return why the page makes no claim."""
    comparable = [c for table in tables for c in table.comparable]
    if not comparable:
        reasons = shared_reasons(tables)
        why = f": {joined(reasons)}" if reasons else "; the verdict says why"
        return f"No claim: these rows cannot be compared{why}."
    few = [c for c in comparable if c.outcome == "too few"]
    if not few:
        return "No claim: unequal numbers of seeds have no results."
    return f"No claim: {why_no_claim(few)} {WAY_OUT}"


def _answer(table: Table) -> str:
    """Return which row of a table is better; empty where nothing in it was tested."""
    tested = [c for c in table.comparisons if c.corrected is not None]
    if not tested:
        return ""
    between = [c for c in tested if c.purpose != AGAINST_DENSE]
    text = _best(table.lowest, between) if between and table.lowest else ""
    text = text or (_largest(between) if between else _price(tested))
    if table.asked:  # rows without pruning are called dense, so no place is named
        text = f"{at_sparsity(table.asked)}, {text}"
    return f"{text[0].upper() if table.asked else text[0]}{text[1:]}."


def _best(best: Row, tested: Sequence[Comparison]) -> str:
    """Return which rows the lowest one is better than, and from which it does not differ."""
    own = [c for c in tested if c.row is best or c.against is best]
    won = [c for c in own if c.outcome == ("better" if c.row is best else "worse")]
    level = [c for c in own if c.outcome in NOT_SHOWN]
    if len(own) == len(level) == 1:
        return _apart(own[0])
    parts = []
    if won:
        parts.append(f"is better than {_names(won, best)} {_by(won)}")
    if level:
        seems = "" if won else "has the lowest mean loss but "
        parts.append(f"{seems}cannot be told apart from {_names(level, best)}")
    return f"{best.label} {joined(parts)}" if parts else ""


def _largest(tested: Sequence[Comparison]) -> str:
    """Return the largest difference that a table's tests show, and how many more there are."""
    claims = sorted(
        (c for c in tested if c.outcome in CLAIMS and c.difference),
        key=lambda c: -abs(c.difference.mean if c.difference else 0.0),
    )
    count = counted(len(tested), "comparison")
    if not claims:
        return f"none of {count} shows a difference"
    found = claims[0]
    pair = (found.row, found.against)
    best, other = pair if found.outcome == "better" else pair[::-1]
    rest = len(claims) - 1
    verb = "shows" if rest == 1 else "show"
    more = f"; {rest} more of {count} {verb} a difference" if rest else ""
    return f"{best.label} is better than {name_beside(other, best)} {_by([found])}{more}"


def _price(tested: Sequence[Comparison]) -> str:
    """Return how pruned rows compare with their dense controls."""
    worse, better = ([c for c in tested if c.outcome == claim] for claim in ("worse", "better"))
    if len(tested) == 1:
        (found,) = tested
        if not worse and not better:
            return _apart(found)
        return f"{found.row.label} is {found.outcome} than {found.against.label} {_by(tested)}"
    if len(worse) == len(tested):
        return f"all {len(worse)} pruned rows are worse than their dense controls {_by(worse)}"
    also = f", {len(better)} better" if better else ""
    return f"{len(worse)} of {len(tested)} pruned rows are worse than their dense controls{also}"


def _apart(found: Comparison) -> str:
    names = f"{found.row.label} and {name_beside(found.against, found.row)}"
    return f"{names} cannot be told apart ({reach_text(found)} nats per token)"


def _by(claims: Sequence[Comparison]) -> str:
    """Return the size of claims, with the largest p value."""
    p = p_text(max(c.corrected for c in claims if c.corrected is not None))
    if len(claims) == 1:
        return f"by {reach_text(claims[0], sign=False)} nats per token ({p})"
    sizes = [abs(c.difference.mean) for c in claims if c.difference]
    return f"by {span_of(sizes, '.4f')} nats per token (every {p.replace('=', 'at most')})"


def _names(found: Sequence[Comparison], best: Row) -> str:
    others = [c.against if c.row is best else c.row for c in found]
    if len(others) > _MOST:
        return f"{len(others)} other rows"
    return joined([name_beside(other, best) for other in others])


def _shows(count: int) -> str:
    return "none shows" if count == 0 else "1 shows" if count == 1 else f"{count} show"
