"""Numbers in words, and the remarks on a report's runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from gpt2.config.text import counted, joined, shortened
from scripts.reports.comparisons import Comparison, Table
from scripts.reports.rows import Row
from scripts.reports.runs import Run

#: A summary's counts of skipped steps and rollbacks, in words for readers.
_WRONG = (
    ("skipped_steps", "step", "skipped for NaN or Inf"),
    ("spiked_steps", "step", "skipped as spikes"),
    ("rollbacks", "rollback", "after spikes"),
)

#: Most names in a sentence; the rest is counted.
_MOST = 4
MINUS, PLUS_MINUS, SPACE = "\u2212", "\u00b1", "\u00a0"  # the last is a no-break space


def percent(share: float) -> str:
    """Return a share for people: 50 %, 97.5 %."""
    return f"{100.0 * share:.2f}".rstrip("0").rstrip(".") + " %"


def where(asked: float) -> str:
    """Return the heading of one sparsity."""
    return "Without pruning" if asked == 0.0 else f"{percent(asked)} sparsity"


def at_sparsity(asked: float) -> str:
    """Return a phrase with the sparsity, for the middle of a sentence."""
    return "without pruning" if asked == 0.0 else f"at {percent(asked)} sparsity"


def signed(value: float, digits: int = 4) -> str:
    """Return a difference with its sign, with a true minus."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0.0:
        return text
    return (MINUS if value < 0.0 else "+") + text


def p_text(p: float) -> str:
    """Return a p value with a suitable number of digits."""
    if p < 1e-4:
        return "p < 0.0001".replace(" ", SPACE)
    return f"p{SPACE}={SPACE}{p:.4f}" if p < 1e-2 else f"p{SPACE}={SPACE}{p:.2f}"


def range_text(found: Comparison) -> str:
    """Return the 95 % interval of a difference; empty without one."""
    interval = found.difference
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"{signed(interval.low)} to {signed(interval.high)}"


def reach_text(found: Comparison, sign: bool = True) -> str:
    """Return a difference with the half width of its 95 % interval."""
    difference = found.difference
    assert difference is not None
    assert difference.high is not None
    mean = signed(difference.mean) if sign else f"{abs(difference.mean):.4f}"
    return f"{mean}{SPACE}{PLUS_MINUS}{SPACE}{difference.high - difference.mean:.4f}"


def span_of(values: Sequence[float], form: str) -> str:
    """Return the smallest and largest of some numbers, or one number if equal when rounded."""
    least, most = f"{min(values):{form}}", f"{max(values):{form}}"
    return least if least == most else f"{least} to {most}"


def name_beside(row: Row, other: Row) -> str:
    """Return a row's name beside another: without the common part of both names."""
    if row.optimizer != other.optimizer or row.series == other.series:
        return row.label
    name, _, detail = row.series.partition(" (")
    return name if detail == other.series.partition(" (")[2] else row.series


def count_text(runs: Sequence[Run]) -> str:
    """Return the number of runs, and of those with results."""
    lost = sum(not run.finished for run in runs)
    if len(runs) == 1:
        return "1 run, without results" if lost else "1 run, finished"
    return f"{len(runs)} runs, {lost or 'all'} {'without' if lost else 'with'} results"


def remarks(tables: Sequence[Table], runs: Sequence[Run], shared: bool) -> list[str]:
    """Return the remarks a reader needs before trusting the numbers, a sentence for each."""
    found = []
    for table in tables:
        if table.lacking:
            names = shortened([row.label for row in table.lacking], _MOST)
            verb = "has" if len(table.lacking) == 1 else "have"
            at = at_sparsity(table.asked)
            found.append(f"{names} {verb} no dense control among these runs, {at}.")
        if table.groups:
            found.append(
                f"The {len(table.rows)} rows {at_sparsity(table.asked)} fall into "
                f"{table.groups} groups that are not compared with one another, since they differ "
                f"in {joined(table.reasons)}."
            )
    rows = [row for table in tables for row in table.rows]
    uneven = [row.label for row in rows if len(set(row.results("tokens"))) > 1]
    if uneven:
        names = shortened(uneven, _MOST)
        found.append(f"Seeds of one row saw different numbers of tokens: {names}.")
    for row in rows:
        if row.repeats:
            found.append(
                f"{row.label}: {counted(len(row.repeats), 'further run')} of the same seeds; the "
                "earliest of each seed counts."
            )
        found += _wrong_steps(row)
    found += _machines(runs, shared)
    problems: dict[str, list[str]] = {}
    for run in runs:
        for problem in run.problems:
            problems.setdefault(problem, []).append(run.name)
    return found + [f"{shortened(names, _MOST)}: {what}." for what, names in problems.items()]


def _wrong_steps(row: Row) -> Iterator[str]:
    """Yield the number of steps a row's runs skipped, and of their rollbacks."""
    for name, what, why in _WRONG:
        counts = [int(run.measured(name) or 0) for run in row.runs]  # old runs lack some
        if total := sum(counts):
            of = sum(count > 0 for count in counts)
            yield f"{row.label}: {counted(total, what)} {why}, in {of} of {len(counts)} runs."


def _machines(runs: Sequence[Run], shared: bool) -> Iterator[str]:
    devices = {
        (run.record.host, run.record.device_name, run.record.threads)
        for run in runs
        if run.finished
    }
    if shared:
        yield "Runs shared the machine: their times and speeds are not comparable."
    if len(devices) > 1:
        yield "Machines or threads differ between runs: their times and speeds are not comparable."


def overlapping(runs: Sequence[Run]) -> bool:
    """Return whether two finished runs ran at the same time on one host's CPU."""
    spans = []
    for run in runs:
        record = run.record
        if run.finished and record.device == "cpu" and record.start and record.end:
            spans.append((str(record.host), record.start, record.end))
    return any(a[0] == b[0] and b[1] < a[2] for a, b in itertools.pairwise(sorted(spans)))
