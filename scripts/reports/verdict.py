"""The verdict in words: which row is better, by how much, how sure, and other differences."""

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
from scripts.reports.few_seeds import no_claim
from scripts.reports.headline import CLAIMS, shared_reasons, told_in_full
from scripts.reports.legend import HEADING, Legend
from scripts.reports.words import (
    SPACE,
    name_beside,
    p_text,
    reach_text,
    signed,
    span_of,
    where,
)

#: Most pairs in a sentence, the rest is counted; most rows in a list, else its two ends.
_MOST, _MOST_ROWS = 4, 5


@dataclass(frozen=True)
class Paragraph:
    """A heading and its sentences."""

    heading: str
    sentences: tuple[str, ...]


def verdict(tables: Sequence[Table], legend: Legend) -> list[Paragraph]:
    """Return the verdict: for every sparsity which rows are better, by how much, and how sure.

    What the headline says is left out: why rows cannot be compared, and the only difference where
    there are too few seeds. The last paragraph explains the letters of `legend`.
    """
    found = []
    told = bool(shared_reasons(tables))
    few_told = told_in_full(tables)
    for table in tables:
        sentences = [
            *_table_sentences(table, legend, few_told),
            *(() if told else _not_compared(table)),
        ]
        if sentences:
            found.append(Paragraph(where(table.asked), tuple(sentences)))
    if legend.sentences:
        found.append(Paragraph(HEADING, legend.sentences))
    return found


def _table_sentences(table: Table, legend: Legend, few_told: bool) -> Iterator[str]:
    groups: dict[tuple[str, int], list[Comparison]] = {}
    for found in table.comparisons:
        groups.setdefault((found.purpose, id(found.against)), []).append(found)
    ordered = sorted(groups.values(), key=lambda each: each[0].purpose == AGAINST_DENSE)
    for members in ordered:
        yield from _against_one(members, legend, few_told)
    if not few_told:
        yield from _few_between(table)
    yield from _lowest_mean(table)


def _few_between(table: Table) -> Iterator[str]:
    """Yield one sentence about all pairs of rows, without controls, that have too few seeds."""
    pairs = [c for c in table.comparisons if c.purpose == AGAINST_ROW and c.outcome == "too few"]
    if pairs:
        rows = {id(row): row.label for c in pairs for row in (c.against, c.row)}
        yield f"No claim between {joined(list(rows.values()))}: {no_claim(pairs, pairs_of=True)}"


def _lowest_mean(table: Table) -> Iterator[str]:
    """Yield the row with the lowest mean over the seeds that all rows have."""
    lowest, common = table.lowest, table.common_seeds
    if lowest is None:
        return
    over = ""
    if any(len(row.seeds) > len(common) for row in table.rows):
        over = f" over the {counted(len(common), 'seed')} that all rows have"
    mean = lowest.loss_over(common).mean
    yield f"Lowest mean{over}: {lowest.label}, {mean:.4f} (perplexity {math.exp(mean):.3f})."


def _not_compared(table: Table) -> Iterator[str]:
    """Yield the pairs that are not compared, those with the same reasons together."""
    pairs: dict[tuple[str, ...], list[str]] = {}
    for c in table.comparisons:
        if c.objections:
            pairs.setdefault(c.objections, []).append(f"{c.row.label} with {c.against.label}")
    for reasons, names in pairs.items():
        more = f" and {counted(len(names) - _MOST, 'more pair')}" if len(names) > _MOST else ""
        yield f"Not compared, since {joined(reasons)}: {'; '.join(names[:_MOST])}{more}."


def _against_one(members: Sequence[Comparison], legend: Legend, few_told: bool) -> Iterator[str]:
    """Yield the sentences about all rows that were compared with one."""
    against = _control_name(members[0])
    claimed = [c for c in sorted(members, key=_by_difference) if c.outcome in CLAIMS]
    if claimed and members[0].purpose != AGAINST_DENSE:
        yield f"Against {against}: {'; '.join(_claim(c, legend) for c in claimed)}."
    elif claimed:  # mostly the cost of pruning: a list is enough
        for outcome in CLAIMS:
            each = [c for c in claimed if c.outcome == outcome]
            if each:
                yield f"{outcome.capitalize()} than {against}: {_listed(each, legend)}."
    apart = [c for c in members if c.outcome == "undecided"]
    if apart:
        names = _listed(sorted(apart, key=_by_difference), legend)
        sizes = span_of([c.detectable for c in apart if c.detectable is not None], ".2g")
        yield (
            f"Cannot be told apart from {against}: {names}; only differences above about "
            f"{sizes} would show."
        )
    equal = [_noted(c) for c in members if c.outcome == "equal"]
    if equal:
        yield f"Equal to {against} to the last digit, for every seed: {joined(equal)}."
    yield from _equivalent(members, legend)
    for found in (c for c in members if c.outcome == "uneven"):
        yield uneven(found, _name(found))
    for found in (c for c in members if c.outcome == "reversible"):
        yield reversible(found, _name(found), reach_text(found))
    few = [c for c in members if c.outcome == "too few" and c.purpose != AGAINST_ROW]
    if few and not few_told:
        yield f"No claim on {joined([_noted(c) for c in few])} against {against}: {no_claim(few)}"


def _control_name(found: Comparison) -> str:
    """Return the name of the row that others are compared with."""
    if found.purpose == AGAINST_SMALL:
        return f"the small dense model of equal average parameters ({found.against.label})"
    return found.against.label


def _claim(found: Comparison, legend: Legend) -> str:
    difference = found.difference
    assert difference is not None
    assert found.corrected is not None
    change = f"{signed(100.0 * math.expm1(difference.mean), 1)}{SPACE}%"
    sure = f"({p_text(found.corrected)}; perplexity {change}{of_both(found)})"
    by = reach_text(found, sign=False)
    return f"{_name(found)} is {found.outcome} by {by} nats {sure}{_also(found, legend)}"


def _equivalent(members: Sequence[Comparison], legend: Legend) -> Iterator[str]:
    """Yield the rows that are equivalent to one within the margin, or not worse or better by it."""
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


def _listed(found: Sequence[Comparison], legend: Legend) -> str:
    """Return rows with their differences; of many only the first and the last."""
    each = [_differing(c, legend) for c in found]
    if len(each) <= _MOST_ROWS:
        return joined(each)
    return f"{len(each)} rows, from {each[0]} to {each[-1]}"


def _differing(found: Comparison, legend: Legend) -> str:
    """Return a row's name with its difference."""
    return f"{_name(found)} ({reach_text(found)}{of_both(found)}){_also(found, legend)}"


def _also(found: Comparison, legend: Legend) -> str:
    """Return the letter of the other differences between two rows, after a blank."""
    mark = legend.mark(found)
    return f"{SPACE}{mark}" if mark else ""


def _noted(found: Comparison) -> str:
    """Return a row's name, with its failed seeds if any."""
    failures = of_both(found, before="")
    return f"{_name(found)} ({failures})" if failures else _name(found)


def _name(found: Comparison) -> str:
    return name_beside(found.row, found.against)


def _by_difference(found: Comparison) -> float:
    return found.difference.mean if found.difference else 0.0
