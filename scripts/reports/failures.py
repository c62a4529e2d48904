"""Sentences about seeds without results: they failed, or have not finished.

Whether a seed diverges depends on the method, so a mean over the remaining seeds can flatter the
side that lost most.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from gpt2.config.text import counted
from scripts.reports.comparisons import Comparison
from scripts.reports.option_values import method_of, options_key
from scripts.reports.rows import DENSE, Row
from scripts.reports.runs import Run
from scripts.reports.words import p_text, signed


def without_results(row: Row) -> str:
    """Return a clause with the number of a row's seeds without results."""
    known = len(row.seeds) + row.unfinished
    verb = "has" if row.unfinished == 1 else "have"
    return f"{row.unfinished} of {counted(known, 'seed')} of {row.label} {verb} no results"


def of_both(found: Comparison, before: str = "; ") -> str:
    """Return the clause about equally many seeds without results on both sides; or nothing."""
    count = found.row.unfinished
    if count == 0 or found.uneven:
        return ""
    stands = ", which could not undo it" if found.outcome in ("better", "worse") else ""
    return f"{before}{counted(count, 'seed')} of each without results{stands}"


def uneven(found: Comparison, name: str) -> str:
    """Return why no claim is made about a row, called `name`, that lost more or fewer seeds."""
    return (
        f"No claim on {name} against {found.against.label}: {without_results(found.row)}, "
        f"{without_results(found.against)}; the seeds that are left may be the better ones."
    )


def reversible(found: Comparison, name: str, difference: str) -> str:
    """Return why no claim is made about a row, called `name`, that lost as many seeds."""
    assert found.worst is not None
    assert found.p_worst is not None
    count = found.row.unfinished
    worst = signed(found.worst.mean)
    if found.p_worst < 1.0:
        worst += f" ({p_text(found.p_worst)})"
    return (
        f"No claim on {name} against {found.against.label}: over the seeds that both have the "
        f"difference is {difference}, but {counted(count, 'seed')} of each "
        f"{'has' if count == 1 else 'have'} no results. In the worst case, with their losses the "
        f"highest and lowest of these rows, it would be {worst}."
    )


def remarks_on_failures(rows: Sequence[Row], reported: Sequence[Run]) -> Iterator[str]:
    """Yield rows that lack seeds, and `reported` runs without a row because all failed."""
    for row in rows:
        if row.unfinished:
            yield f"{without_results(row)}: they failed or have not finished."
    if not rows:
        return  # the headline says that no run has finished
    shown = {options_key(row.runs[0]) for row in rows}
    lost: dict[Hashable, list[Run]] = {}
    for run in reported:
        if not run.finished and (key := options_key(run)) not in shown:
            lost.setdefault(key, []).append(run)
    for runs in lost.values():
        yield _lost(runs)


def _lost(runs: Sequence[Run]) -> str:
    options = runs[0].options
    method = method_of(options)
    what = "dense" if method == DENSE else f"+ {method}"
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return (
        f"{options.get('OPTIMIZER', '?')} {what} ({runs[0].name}{more}) has no results for any of "
        f"{counted(len({run.seed for run in runs}), 'seed')}, so no table shows it."
    )
