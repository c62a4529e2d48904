"""The verdict in words: what is better, by how much, how sure, and in what else the two differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpt2.config.text import counted, joined
from scripts.reports.comparisons import (
    AGAINST_DENSE,
    AGAINST_ROW,
    AGAINST_SMALL,
    Comparison,
    Table,
)
from scripts.reports.failures import of_both, reversible, uneven
from scripts.reports.legend import HEADING, Legend
from scripts.reports.rows import Row
from scripts.reports.statistics import FEWEST, LEVEL
from scripts.reports.words import (
    PLUS_MINUS,
    SPACE,
    p_text,
    percent,
    signed,
    where,
)

#: The outcomes that are claims.
CLAIMS = ("better", "worse")


@dataclass(frozen=True)
class Paragraph:
    """A heading and its sentences."""

    heading: str
    sentences: tuple[str, ...]


def headline(tables: Sequence[Table]) -> str:
    """Return the one sentence above all others."""
    compared = [c for table in tables for c in table.comparisons]
    if not any(table.rows for table in tables):
        return "No run is finished: there is nothing to compare yet."
    if not compared:
        if sum(len(table.rows) for table in tables) == 1:
            return "There is one row here, and nothing to compare it with."
        if any(table.lone for table in tables):
            return (
                "No claim is made: rows of one run, or of runs that cannot be compared, cannot be "
                "told from chance."
            )
        return "There is nothing to compare here: no row has a control among the others."
    tested = [c for c in compared if c.corrected is not None]
    if not tested:
        return _no_claim(compared)
    decided = sum(c.outcome in CLAIMS for c in tested)
    apart = sum(c.outcome == "undecided" for c in tested)
    undone = sum(c.outcome == "reversible" for c in tested)
    equal = len(tested) - decided - apart - undone
    shown = "none shows" if decided == 0 else "1 shows" if decided == 1 else f"{decided} show"
    text = (
        f"Of {counted(len(tested), 'comparison')} tested, {shown} a difference and {apart} cannot "
        "be told apart"
    )
    text += f"; {equal} equal to the last digit" if equal else ""
    text += f"; {undone} could be undone by failed seeds" if undone else ""
    chance = "; the chance of any false claim on this page is at most " + percent(LEVEL)
    text += f"{chance if decided else ''}."
    rest = len(compared) - len(tested)
    return text + (f" Of {rest} more no claim is made; the tables say why." if rest else "")


def _no_claim(compared: Sequence[Comparison]) -> str:
    most = max((c.difference.count for c in compared if c.difference), default=0)
    if most == 0:
        return "No claim is made: none of these rows can be compared, for the reasons below."
    if most >= FEWEST:
        return "No claim is made: unequal numbers of seeds have no results; see below."
    return (
        f"No claim is made: there {'is' if most == 1 else 'are'} {counted(most, 'seed')} to a "
        f"comparison, and with fewer than {FEWEST} a difference cannot be told from chance."
    )


def verdict(tables: Sequence[Table], legend: Legend) -> list[Paragraph]:
    """Return the verdict: for every sparsity what is better, by how much, and how sure.

    The last paragraph tells what else the compared rows differ in, by the letters of `legend`.
    """
    found = []
    for table in tables:
        sentences = tuple(_table_sentences(table, legend))
        if sentences:
            found.append(Paragraph(where(table.asked), sentences))
    if legend.sentences:
        found.append(Paragraph(HEADING, legend.sentences))
    return found


def _table_sentences(table: Table, legend: Legend) -> Iterator[str]:
    groups: dict[tuple[str, int], list[Comparison]] = {}
    for found in table.comparisons:
        groups.setdefault((found.purpose, id(found.against)), []).append(found)
    ordered = sorted(groups.values(), key=lambda each: each[0].purpose == AGAINST_DENSE)
    for members in ordered:
        yield from _against_one(members, legend)
    yield from _few_between(table)
    if not table.groups and not table.lone:
        yield from _lowest_mean(table.rows)


def _few_between(table: Table) -> Iterator[str]:
    """Yield one sentence on all pairs of rows, none a control, that have too few seeds."""
    pairs = [c for c in table.comparisons if c.purpose == AGAINST_ROW and c.outcome == "too few"]
    if pairs:
        rows = {id(row): row.label for c in pairs for row in (c.against, c.row)}
        yield f"No claim between {joined(list(rows.values()))}: {_could_show(pairs)}."


def _could_show(few: Sequence[Comparison]) -> str:
    """Return what so few seeds could have shown."""
    seeds = max(c.difference.count for c in few if c.difference)
    if not any(c.detectable is not None for c in few):
        return f"{counted(seeds, 'seed')}, which cannot say what could have been shown"
    return f"with {counted(seeds, 'seed')} only differences above about {_range(few)} would show"


def _lowest_mean(rows: Sequence[Row]) -> Iterator[str]:
    """Yield which row has the lowest mean over the seeds that all rows have."""
    common = set.intersection(*(set(row.seeds) for row in rows)) if len(rows) > 1 else set()
    if not common:
        return
    means = {id(row): row.loss_over(common).mean for row in rows}
    lowest = min(rows, key=lambda row: means[id(row)])
    mean = means[id(lowest)]
    over = ""
    if any(len(row.seeds) > len(common) for row in rows):
        over = f" over {counted(len(common), 'seed')} that all rows have"
    yield (
        f"The lowest mean{over} is that of {lowest.label}: loss {mean:.4f}, perplexity "
        f"{math.exp(mean):.3f}. The order of means alone is no claim."
    )


def _against_one(members: Sequence[Comparison], legend: Legend) -> Iterator[str]:
    """Yield what is said of all rows that were held against one."""
    against = _held_against(members[0])
    claimed = [c for c in sorted(members, key=_by_difference) if c.outcome in CLAIMS]
    if claimed and members[0].purpose != AGAINST_DENSE:
        yield f"Against {against}: {'; '.join(_claim(c, legend) for c in claimed)}."
    elif claimed:  # mostly what pruning costs: a list is enough
        for outcome in CLAIMS:
            each = [_differing(c, legend) for c in claimed if c.outcome == outcome]
            if each:
                yield f"{outcome.capitalize()} than {against}: {joined(each)}."
    apart = [c for c in members if c.outcome == "undecided"]
    if apart:
        each = [_differing(c, legend) for c in sorted(apart, key=_by_difference)]
        yield (
            f"Cannot be told apart from {against}: {joined(each)}; {_sizes(apart)} would have "
            "been seen."
        )
    equal = [_noted(c) for c in members if c.outcome == "equal"]
    if equal:
        yield f"The same as {against} to the last digit, for every seed: {joined(equal)}."
    yield from _equivalent(members, legend)
    for found in (c for c in members if c.outcome == "uneven"):
        yield uneven(found, _name(found))
    for found in (c for c in members if c.outcome == "reversible"):
        yield reversible(found, _name(found), _reach(found))
    few = [c for c in members if c.outcome == "too few" and c.purpose != AGAINST_ROW]
    if few:
        names = joined([_noted(c) for c in few])
        yield f"No claim on {names} against {against}: {_could_show(few)}."
    refused = [c for c in members if c.outcome == "refused"]
    if refused:
        yield f"Not compared with {against}: {joined([_name(c) for c in refused])}, see below."


def _held_against(found: Comparison) -> str:
    """Return what rows are held against, as the sentences call it."""
    if found.purpose == AGAINST_SMALL:
        return f"the small dense model of equal average parameters ({found.against.label})"
    return found.against.label


def _claim(found: Comparison, legend: Legend) -> str:
    difference = found.difference
    assert difference is not None
    assert found.corrected is not None
    change = f"{signed(100.0 * math.expm1(difference.mean), 1)}{SPACE}%"
    sure = f"({p_text(found.corrected)}; perplexity {change}{of_both(found)})"
    by = _reach(found, sign=False)
    return f"{_name(found)} is {found.outcome} by {by} nats {sure}{_also(found, legend)}"


def _equivalent(members: Sequence[Comparison], legend: Legend) -> Iterator[str]:
    """Yield which rows are equivalent to one within the margin, or not worse or better by it."""
    for outcome, implied, text in (
        ("equivalent", None, "Equivalent to {} within {} nats"),
        ("no worse", "better", "No worse than {} by {} nats or more"),
        ("no better", "worse", "No better than {} by {} nats or more"),
    ):
        found = [
            (c, c.equivalence)
            for c in members
            if c.equivalence and c.equivalence.outcome == outcome and c.outcome != implied
        ]
        if found:
            each = [f"{_name(c)} ({p_text(shown.p)}){_also(c, legend)}" for c, shown in found]
            start = text.format(members[0].against.label, f"{found[0][1].margin:g}")
            yield f"{start}: {joined(each)}."


def _differing(found: Comparison, legend: Legend) -> str:
    """Return a row's name with its difference."""
    return f"{_name(found)} ({_reach(found)}{of_both(found)}){_also(found, legend)}"


def _also(found: Comparison, legend: Legend) -> str:
    """Return the letter of what else the two rows differ in, with a blank before it."""
    mark = legend.mark(found)
    return f"{SPACE}{mark}" if mark else ""


def _noted(found: Comparison) -> str:
    """Return a row's name, with its failed seeds where there are any."""
    failures = of_both(found, before="")
    return f"{_name(found)} ({failures})" if failures else _name(found)


def _reach(found: Comparison, sign: bool = True) -> str:
    """Return a difference with the half width of its 95 % interval."""
    difference = found.difference
    assert difference is not None
    assert difference.high is not None
    mean = signed(difference.mean) if sign else f"{abs(difference.mean):.4f}"
    return f"{mean}{SPACE}{PLUS_MINUS}{SPACE}{difference.high - difference.mean:.4f}"


def _sizes(members: Sequence[Comparison]) -> str:
    """Return the differences that seeds show with a good chance, from the least to the most."""
    sizes = _range(members)
    return f"differences of {sizes}" if " to " in sizes else f"a difference of {sizes}"


def _range(members: Sequence[Comparison]) -> str:
    sizes = [f"{c.detectable:.2g}" for c in sorted(members, key=_size) if c.detectable is not None]
    return sizes[0] if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"


def _size(found: Comparison) -> float:
    return found.detectable or 0.0


def _name(found: Comparison) -> str:
    """Return what a row is called beside the one it is held against."""
    row, against = found.row, found.against
    if row.optimizer == against.optimizer and row.series != against.series:
        return row.series
    return row.label


def _by_difference(found: Comparison) -> float:
    return found.difference.mean if found.difference else 0.0
