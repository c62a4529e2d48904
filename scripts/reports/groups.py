"""Groups of rows that can be compared, where the runs of a report are unlike one another."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.reports.rows import Row, objections

#: Most groups for which every pair is named; otherwise only the reasons are.
MOST_GROUPS = 3


def groups_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Return rows in groups: rows that cannot be compared with a group's first are elsewhere."""
    groups: list[list[Row]] = []
    for row in rows:
        for group in groups:
            if not _apart(group[0], row):
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


def reasons_between(groups: Sequence[Sequence[Row]]) -> tuple[str, ...]:
    """Return how groups differ from the first: data, tokens, effective batch."""
    found = [reason for group in groups[1:] for reason in _apart(groups[0][0], group[0])]
    return tuple(dict.fromkeys(found))


def _apart(a: Row, b: Row) -> list[str]:
    """Return why two rows are in different groups, without the values."""
    reasons = [text.partition(" differ")[0] for text in objections(a, b)]
    for name in ("tokens", "steps"):  # also for rows without a common seed
        if set(a.results(name)) != set(b.results(name)):
            reasons.append(name)
    return list(dict.fromkeys(reasons))
