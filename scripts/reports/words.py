"""Numbers and outcomes in words: the verdict, and what is to be known of the runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpt2.config.text import counted, joined
from scripts.reports.comparisons import AGAINST_DENSE, Comparison, Table
from scripts.reports.failures import of_both, uneven
from scripts.reports.rows import Row
from scripts.reports.runs import Run
from scripts.reports.statistics import FEWEST

#: What a summary counts of steps that went wrong, and what a reader calls it.
_WRONG = (
    ("skipped_steps", "step", "skipped, without a finite loss and gradient"),
    ("spiked_steps", "step", "skipped as spikes"),
    ("rollbacks", "rollback", "after spikes"),
)

MINUS, PLUS_MINUS, SPACE = "\u2212", "\u00b1", "\u00a0"  # a space at which no line ends
#: The outcomes that are claims.
CLAIMS = ("better", "worse")


@dataclass(frozen=True)
class Paragraph:
    """A heading and its sentences."""

    heading: str
    sentences: tuple[str, ...]


def percent(share: float) -> str:
    """Return a share as people write it: 50 %, 97.5 %."""
    return f"{100.0 * share:.2f}".rstrip("0").rstrip(".") + " %"


def where(asked: float) -> str:
    """Return the heading of what is at one sparsity."""
    return "Without pruning" if asked == 0.0 else f"{percent(asked)} sparsity"


def signed(value: float, digits: int = 4) -> str:
    """Return a difference with its sign, a true minus for a negative one."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0.0:
        return text
    return (MINUS if value < 0.0 else "+") + text


def p_text(p: float) -> str:
    """Return a p value with as many digits as it deserves."""
    if p < 1e-4:
        return "p < 0.0001".replace(" ", SPACE)
    return f"p{SPACE}={SPACE}{p:.4f}" if p < 1e-2 else f"p{SPACE}={SPACE}{p:.2f}"


def range_text(found: Comparison) -> str:
    """Return the 95 % interval of a difference; empty without one."""
    interval = found.difference
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"{signed(interval.low)} to {signed(interval.high)}"


def headline(tables: Sequence[Table]) -> str:
    """Return the one sentence above all others."""
    compared = [c for table in tables for c in table.comparisons]
    if not any(table.rows for table in tables):
        return "No run is finished: there is nothing to compare yet."
    if not compared:
        if sum(len(table.rows) for table in tables) == 1:
            return "There is one row here, and nothing to compare it with."
        return "There is nothing to compare here: no row has a control among the others."
    tested = [c for c in compared if c.corrected is not None]
    if not tested:
        return _no_claim(compared)
    decided = sum(c.outcome in CLAIMS for c in tested)
    apart = sum(c.outcome == "undecided" for c in tested)
    equal = len(tested) - decided - apart
    shown = "none shows" if decided == 0 else "1 shows" if decided == 1 else f"{decided} show"
    text = (
        f"Of {counted(len(tested), 'comparison')} tested, {shown} a difference and {apart} cannot "
        "be told apart"
    )
    text += f"; {equal} equal to the last digit." if equal else "."
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


def verdict(tables: Sequence[Table]) -> list[Paragraph]:
    """Return the verdict: for every sparsity what is better, by how much, and how sure."""
    found = []
    for table in tables:
        sentences = tuple(_table_sentences(table))
        if sentences:
            found.append(Paragraph(where(table.asked), sentences))
    return found


def _table_sentences(table: Table) -> Iterator[str]:
    groups: dict[tuple[str, int], list[Comparison]] = {}
    for found in table.comparisons:
        groups.setdefault((found.purpose, id(found.against)), []).append(found)
    ordered = sorted(groups.values(), key=lambda each: each[0].purpose == AGAINST_DENSE)
    for members in ordered:
        yield from _against_one(members)
    yield from _lowest_mean(table.rows)


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


def _against_one(members: Sequence[Comparison]) -> Iterator[str]:
    """Yield what is said of all rows that were held against one."""
    against = members[0].against.label
    claimed = [c for c in sorted(members, key=_by_difference) if c.outcome in CLAIMS]
    if claimed and members[0].purpose != AGAINST_DENSE:
        yield f"Against {against}: {'; '.join(_claim(c) for c in claimed)}."
    elif claimed:  # mostly what pruning costs: a list is enough
        for outcome in CLAIMS:
            each = [_differing(c) for c in claimed if c.outcome == outcome]
            if each:
                yield f"{outcome.capitalize()} than {against}: {joined(each)}."
    apart = [c for c in members if c.outcome == "undecided"]
    if apart:
        each = [_differing(c) for c in sorted(apart, key=_by_difference)]
        yield (
            f"Cannot be told apart from {against}: {joined(each)}; {_sizes(apart)} would have "
            "been seen."
        )
    equal = [_noted(c) for c in members if c.outcome == "equal"]
    if equal:
        yield f"The same as {against} to the last digit, for every seed: {joined(equal)}."
    for found in (c for c in members if c.outcome == "uneven"):
        yield uneven(found, _name(found))
    few = [c for c in members if c.outcome == "too few"]
    if few:
        names = joined([_noted(c) for c in few])
        seeds = max(c.difference.count for c in few if c.difference)
        text = f"No claim on {names} against {against}: {counted(seeds, 'seed')}"
        if any(c.detectable is not None for c in few):
            yield f"{text} could have shown {_sizes(few)}."
        else:
            yield f"{text}, which cannot say what could have been shown."
    refused = [c for c in members if c.outcome == "refused"]
    if refused:
        yield f"Not compared with {against}: {joined([_name(c) for c in refused])}, see below."


def _claim(found: Comparison) -> str:
    difference = found.difference
    assert difference is not None
    assert found.corrected is not None
    change = signed(100.0 * math.expm1(difference.mean), 1)
    return (
        f"{_name(found)} is {found.outcome} by {_reach(found, sign=False)} nats "
        f"({p_text(found.corrected)}; perplexity {change}{SPACE}%{of_both(found)})"
    )


def _differing(found: Comparison) -> str:
    """Return a row's name with its difference."""
    return f"{_name(found)} ({_reach(found)}{of_both(found)})"


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
    sizes = [f"{c.detectable:.2g}" for c in sorted(members, key=_size) if c.detectable is not None]
    if sizes[0] == sizes[-1]:
        return f"a difference of {sizes[0]}"
    return f"differences of {sizes[0]} to {sizes[-1]}"


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


def remarks(tables: Sequence[Table], runs: Sequence[Run], shared: bool) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    found = [
        f"{row.label} at {percent(table.asked)} has no dense control among these runs."
        for table in tables
        for row in table.lacking
    ]
    found += _step_guard(tables)
    for row in (row for table in tables for row in table.rows):
        if len(set(row.results("tokens"))) > 1:
            found.append(f"{row.label}: its seeds saw different numbers of tokens.")
        if row.repeats:
            found.append(
                f"{row.label}: {counted(len(row.repeats), 'further run')} of the same seeds; the "
                "earliest of each seed counts."
            )
        found += _wrong_steps(row)
    found += _machines(runs, shared)
    found += [f"{run.name}: {problem}." for run in runs for problem in run.problems]
    return found


def _wrong_steps(row: Row) -> Iterator[str]:
    """Yield how many steps of a row's runs were not made, and how often they went back."""
    for name, what, why in _WRONG:
        counts = [int(run.measured(name) or 0) for run in row.runs]  # older ones lack some
        if total := sum(counts):
            of = sum(count > 0 for count in counts)
            yield f"{row.label}: {counted(total, what)} {why}, in {of} of {len(counts)} runs."


def _step_guard(tables: Sequence[Table]) -> Iterator[str]:
    """Yield which pairs are not compared, those with the same reasons together."""
    pairs: dict[tuple[str, ...], list[str]] = {}
    for table in tables:
        for c in table.comparisons:
            if c.objections:
                at = f" at {percent(table.asked)}" if table.asked else ""
                text = f"{c.row.label} with {c.against.label}{at}"
                pairs.setdefault(c.objections, []).append(text)
    for reasons, names in pairs.items():
        more = f" and {counted(len(names) - 4, 'more pair')}" if len(names) > 4 else ""
        yield f"Not compared, since {joined(reasons)}: {'; '.join(names[:4])}{more}."


def _machines(runs: Sequence[Run], shared: bool) -> Iterator[str]:
    devices = {
        (run.record.host, run.record.device_name, run.record.threads)
        for run in runs
        if run.finished
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
    spans = []
    for run in runs:
        record = run.record
        if run.finished and record.device == "cpu" and record.start and record.end:
            spans.append((str(record.host), record.start, record.end))
    return any(a[0] == b[0] and b[1] < a[2] for a, b in itertools.pairwise(sorted(spans)))
