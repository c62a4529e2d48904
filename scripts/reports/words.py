"""Numbers and outcomes in words: the verdict, and what is to be known of the runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripts.reports.comparisons import (
    AGAINST_DENSE,
    AGAINST_REFERENCE,
    Comparison,
    Table,
)
from scripts.reports.rows import DENSE, REFERENCE, Row
from scripts.reports.runs import Run
from scripts.reports.statistics import FEWEST

MINUS = "\u2212"


@dataclass(frozen=True)
class Paragraph:
    """A heading and its sentences."""

    heading: str
    sentences: tuple[str, ...]


def percent(share: float) -> str:
    """Return a share as people write it: 50 %, 97.5 %."""
    return f"{100.0 * share:.2f}".rstrip("0").rstrip(".") + " %"


def signed(value: float, digits: int = 4) -> str:
    """Return a difference with its sign, a true minus for a negative one."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0.0:
        return text
    return (MINUS if value < 0.0 else "+") + text


def p_text(p: float) -> str:
    """Return a p value with as many digits as it deserves."""
    if p < 1e-4:
        return "p < 0.0001"
    return f"p = {p:.4f}" if p < 1e-2 else f"p = {p:.2f}"


def range_text(comparison: Comparison, sign: float = 1.0) -> str:
    """Return the 95 % interval of a difference, its ends times `sign`; empty without one."""
    found = comparison.difference
    if found is None or found.low is None or found.high is None:
        return ""
    ends = sorted((sign * found.low, sign * found.high))
    return " to ".join(
        f"{end:.4f}" if end >= 0.0 and ends[0] >= 0.0 else signed(end) for end in ends
    )


def sentence(found: Comparison) -> str:
    """Say what a comparison shows, as a whole sentence."""
    row, other = found.row.label, _other(found)
    outcome, difference = found.outcome, found.difference
    if outcome == "refused" or difference is None:
        return f"{row} is not compared with {other}: {'; '.join(found.objections)}."
    if outcome == "equal":
        return f"{row} and {other} are the same to the last digit, for every seed."
    if outcome == "too few":
        seeds = "one seed" if difference.count == 1 else f"{difference.count} seeds"
        text = f"no claim on {row} against {other}: the means differ by {signed(difference.mean)}"
        text += f", but {seeds} cannot carry a claim"
        if found.detectable is None:
            return text + ", nor say what they could have shown."
        return text + f"; they could have shown {found.detectable:.4f} or more."
    if outcome == "undecided":
        return (
            f"{row} cannot be told apart from {other} (difference {signed(difference.mean)}, "
            f"95 % interval {range_text(found)}, {_corrected(found)}); these seeds would have "
            f"shown {found.detectable:.4f} or more in four cases of five."
        )
    word, sign = ("better", -1.0) if outcome == "better" else ("worse", 1.0)
    return (
        f"{row} is {word} than {other} by {abs(difference.mean):.4f} nats per token "
        f"(95 % interval {range_text(found, sign)}, {_corrected(found)}), a perplexity "
        f"{_ratio(difference.mean)} as high."
    )


def _other(found: Comparison) -> str:
    if found.purpose == AGAINST_REFERENCE:
        return REFERENCE
    return "its dense control" if found.purpose == AGAINST_DENSE else found.against.label


def _ratio(difference: float) -> str:
    return f"{math.exp(difference):.3f} times"


def _corrected(found: Comparison) -> str:
    assert found.corrected is not None
    return f"{p_text(found.corrected)} after Holm"


# -- the verdict -----------------------------------------------------------------------------------


def verdict(tables: Sequence[Table]) -> list[Paragraph]:
    """Return the verdict: for every sparsity what is better, by how much, and how sure."""
    found = []
    for table in tables:
        sentences = list(_table_sentences(table))
        if sentences:
            heading = "Dense" if table.asked == 0.0 else f"{percent(table.asked)} sparsity"
            found.append(Paragraph(heading, tuple(sentences)))
    return found


def headline(tables: Sequence[Table]) -> str:
    """Return the one sentence above all others."""
    compared = [c for table in tables for c in table.comparisons]
    if not any(table.rows for table in tables):
        return "No run is finished: there is nothing to compare yet."
    if not compared:
        return "There is one kind of run here and nothing to compare it with."
    tested = [c for c in compared if c.corrected is not None]
    if not tested:
        most = max((c.difference.count for c in compared if c.difference), default=0)
        if most == 0:
            return "No claim is made: none of these rows can be compared; the reasons are below."
        seeds = "1 seed" if most == 1 else f"{most} seeds"
        return (
            f"No claim is made: {seeds} at most to a comparison, and fewer than {FEWEST} cannot "
            "tell a difference from chance after correction for the number of comparisons. What "
            "so many seeds could have shown stands in the tables."
        )
    decided = sum(c.outcome in ("better", "worse") for c in tested)
    apart = sum(c.outcome == "undecided" for c in tested)
    equal = len(tested) - decided - apart
    text = (
        f"Of {len(tested)} comparisons, {decided} show a difference and {apart} cannot be told "
        "apart"
    )
    text += f"; {equal} are equal to the last digit." if equal else "."
    rest = len(compared) - len(tested)
    return text + (f" {rest} more are not claimed; the tables say why." if rest else "")


def _table_sentences(table: Table) -> Iterator[str]:
    if len(table.rows) > 1:
        lowest = min(table.rows, key=_mean)
        yield (
            f"Lowest mean: {lowest.label}, loss {_mean(lowest):.4f} (the order of means alone is "
            "no claim)."
        )
    groups = itertools.groupby(
        sorted(table.comparisons, key=lambda c: (c.purpose, c.against.optimizer)),
        key=lambda c: (c.purpose, c.against),
    )
    for (_, against), members in groups:
        yield from _group_sentences(against, list(members))


def _group_sentences(against: Row, members: Sequence[Comparison]) -> Iterator[str]:
    for outcome, verb in (
        ("better", "better than"),
        ("worse", "worse than"),
        ("undecided", "cannot be told apart from"),
        ("equal", "the same to the last digit as"),
        ("too few", "no claim against"),
        ("refused", "not compared with"),
    ):
        chosen = [c for c in members if c.outcome == outcome]
        if not chosen:
            continue
        parts = [_part(c) for c in sorted(chosen, key=_by_difference)]
        what = f"{verb} {against.label}"
        yield f"{what[0].upper()}{what[1:]}: {', '.join(parts)}."


def _part(found: Comparison) -> str:
    name = found.row.label
    difference = found.difference
    if difference is None:
        return f"{name} ({'; '.join(found.objections)})"
    text = signed(difference.mean)
    if difference.low is not None:
        text += f" [{range_text(found)}]"
    if found.outcome in ("better", "worse"):
        text += f", {p_text(found.corrected or 0.0)}"
    elif found.outcome == "undecided":
        text += f"; {found.detectable:.4f} would have been seen"
    elif found.outcome == "too few" and found.detectable is not None:
        text += f"; {found.detectable:.4f} could have been seen"
    return f"{name} ({text})"


def _by_difference(found: Comparison) -> float:
    return found.difference.mean if found.difference else 0.0


def _mean(row: Row) -> float:
    found = row.over_seeds("val_loss")
    assert found is not None
    return found.mean


# -- what is to be known ---------------------------------------------------------------------------


def remarks(tables: Sequence[Table], runs: Sequence[Run], shared: bool) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    found = []
    rows = [row for table in tables for row in table.rows]
    for table in tables:
        for row in table.lacking:
            found.append(f"{row.label} at {percent(table.asked)} has no dense control here.")
    refused = [c for table in tables for c in table.comparisons if c.objections]
    for comparison in refused:
        found.append(_capital(sentence(comparison)))
    for row in rows:
        if len({run.measured("tokens") for run in row.runs}) > 1:
            found.append(f"{row.label}: its seeds saw different numbers of tokens.")
        if row.repeats:
            found.append(
                f"{row.label} has {len(row.repeats)} further run(s) of the same seeds; the "
                "earliest of each counts."
            )
    found += _machines(runs, shared)
    found += [f"{run.name}: {problem}." for run in runs for problem in run.problems]
    return found


def _machines(runs: Sequence[Run], shared: bool) -> Iterator[str]:
    done = [run for run in runs if run.finished]
    devices = {
        (r.record.get("host"), r.record.get("device_name"), r.record.get("threads")) for r in done
    }
    if shared:
        yield "Runs shared the machine: their times and speeds are not comparable."
    if len(devices) > 1:
        yield (
            "Runs are of different machines or numbers of threads: their times and speeds are "
            "not comparable."
        )


def overlapping(runs: Sequence[Run]) -> bool:
    """Whether two finished runs were under way at once on one host's CPU."""
    spans = sorted(
        (str(r.record.get("host")), str(r.record["start"]), str(r.record["end"]))
        for r in runs
        if r.finished
        and r.record.get("device") == "cpu"
        and r.record.get("start")
        and r.record.get("end")
    )
    return any(a[0] == b[0] and b[1] < a[2] for a, b in itertools.pairwise(spans))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def dense(row: Row) -> bool:
    """Whether a row is one without pruning."""
    return row.method == DENSE
