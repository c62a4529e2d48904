"""Picture of a table's paired differences, with their intervals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from scripts.reports.comparisons import (
    AGAINST_DENSE,
    AGAINST_REFERENCE,
    AGAINST_SMALL,
    AGAINST_STATIC,
    Comparison,
    Table,
)
from scripts.reports.pictures.picture import WIDTH, Picture, slug, where_text
from scripts.reports.pictures.svg import INK, MUTED, PAPER, SERIES, svg
from scripts.reports.rows import REFERENCE
from scripts.reports.words import MINUS, range_text, signed


def forest(table: Table) -> Picture | None:
    """Draw the paired differences of a table with their intervals; None without any."""
    kinds = {
        AGAINST_DENSE: "minus the dense control",
        AGAINST_REFERENCE: f"minus {REFERENCE}",
        AGAINST_STATIC: "minus the static mask",
        AGAINST_SMALL: "minus the small dense model",
    }
    groups = [
        (kinds.get(purpose, "between rows"), list(members))
        for purpose, members in itertools.groupby(
            sorted((c for c in table.comparisons if c.difference), key=lambda c: c.purpose),
            key=lambda c: c.purpose,
        )
    ]
    if not groups:
        return None
    counts = [len(members) for _, members in groups]
    # Row labels take half of a panel: more than two panels are stacked.
    beside = len(groups) <= 2
    height = 0.24 * max(counts) if beside else 0.24 * sum(counts) + 0.6 * (len(counts) - 1)
    figure = Figure(figsize=(WIDTH, 0.75 + height))
    if beside:
        axes = figure.subplots(1, len(groups), squeeze=False)[0]
    else:
        axes = figure.subplots(len(groups), 1, height_ratios=[count + 1.5 for count in counts])
    tips: dict[str, list[str]] = {}
    for number, (axis, (title, members)) in enumerate(zip(axes, groups, strict=True)):
        _forest_panel(axis, title, members, f"forest-{number}", tips)
    where = where_text(table)
    name = f"forest-{slug(table.asked)}"
    alternative = " ".join(_tip(c) + "." for _, members in groups for c in members)
    return Picture(
        f"Differences {where}",
        f"Final {table.rows[0].split} loss minus that of the control, paired by seed: mean and "
        "95 % interval; "
        "left of zero is better. Filled: a difference after Holm's correction. Hollow: cannot be "
        "told apart. A cross: no claim is made.",
        svg(figure, name, f"Paired differences of the final loss {where}", alternative, tips),
        table.asked,
    )


def _forest_panel(
    axis: Any, title: str, members: Sequence[Comparison], key: str, tips: dict[str, list[str]]
) -> None:
    axis.axvline(0.0, color=INK, linewidth=0.8)
    labels = []
    for place, found in enumerate(members):
        assert found.difference is not None
        sure = found.outcome in ("better", "worse")
        colour = {"better": SERIES[2], "worse": SERIES[1]}.get(found.outcome, MUTED)
        if found.difference.low is not None and found.difference.high is not None:
            ends = [found.difference.low, found.difference.high]
            axis.plot(ends, [place, place], color=colour, linewidth=2.0, solid_capstyle="round")
        marker = "X" if found.corrected is None else "o"
        gid = f"{key}-{place}"
        axis.plot(
            [found.difference.mean],
            [place],
            marker=marker,
            markersize=6.5,
            color=colour,
            markerfacecolor=colour if sure or found.corrected is None else PAPER,
            markeredgewidth=0.0 if found.corrected is None else 1.4,
            gid=gid,
        )
        tips[gid] = [_tip(found)]
        other = f" {MINUS} {found.against.label}" if title == "between rows" else ""
        labels.append(found.row.label + other)
    axis.set_yticks(range(len(members)), labels)
    axis.set_ylim(len(members) - 0.4, -0.6)
    axis.margins(x=0.08)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", labelcolor=INK)
    axis.set_title(title)
    axis.set_xlabel("nats per token")


def _tip(found: Comparison) -> str:
    assert found.difference is not None
    text = f"{found.row.label} against {found.against.label}: {signed(found.difference.mean)}"
    if found.difference.low is not None:
        text += f", 95 % interval {range_text(found)}"
    if found.corrected is not None:
        text += f", p {found.corrected:.4f} after Holm"
    return f"{text}, {found.difference.count} seeds"
