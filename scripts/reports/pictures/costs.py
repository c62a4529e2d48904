"""Pictures of perplexity against its costs: sparsity, memory, size and time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from scripts.reports.pictures.picture import WIDTH, Look, Picture, full_name, mean_of, megabytes
from scripts.reports.pictures.svg import ACCENT, INK, MUTED, svg
from scripts.reports.rows import DENSE, Row
from scripts.reports.words import percent


def against_sparsity(rows: Sequence[Row], look: Look) -> Picture | None:
    """Draw perplexity against reached sparsity, a panel for each optimizer; None without any.

    With only one sparsity it is drawn against the method.
    """
    optimizers = sorted({row.optimizer for row in rows if row.method != DENSE})
    if not optimizers:
        return None
    if len({row.asked for row in rows if row.method != DENSE}) == 1:
        return _against_method(rows, optimizers, look)
    across = min(len(optimizers), 3)
    down = -(-len(optimizers) // across)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.5 * down))
    axes = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    tips: dict[str, list[str]] = {}
    for number, (axis, optimizer) in enumerate(zip(axes, optimizers, strict=False)):
        own = [row for row in rows if row.optimizer == optimizer]
        _sparsity_panel(axis, own, look, f"sparsity-{number}", tips)
        axis.set_title(optimizer)
    for axis in axes[len(optimizers) :]:
        axis.set_visible(False)
    alternative = " ".join(f"{tip}." for texts in tips.values() for tip in texts)
    return Picture(
        "Perplexity against sparsity",
        "Final perplexity at the sparsity that was reached, of the prunable weights; bars are 95 % "
        "intervals of the mean over seeds. The horizontal line is the dense run of that optimizer.",
        svg(figure, "sparsity", "Final perplexity against sparsity", alternative, tips),
    )


def _against_method(rows: Sequence[Row], optimizers: Sequence[str], look: Look) -> Picture:
    """Draw the perplexity of each method at the only sparsity, with the dense rows."""
    shown = [row for row in rows if row.optimizer in optimizers]
    names = list(dict.fromkeys(row.series for row in sorted(shown, key=lambda row: row.asked)))
    figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * len(names)))
    axis = figure.subplots()
    tips: dict[str, list[str]] = {}
    for number, row in enumerate(shown):
        # Optimizers of one method are drawn slightly apart.
        place = names.index(row.series) + 0.22 * (
            optimizers.index(row.optimizer) - (len(optimizers) - 1) / 2.0
        ) / max(1, len(optimizers) - 1)
        colour, found, gid = look.colour(row), row.perplexity, f"method-{number}"
        if found.low is not None and found.high is not None:
            axis.plot([found.low, found.high], [place, place], color=colour, linewidth=1.0)
        axis.plot([found.mean], [place], look.marker(row), color=colour, gid=gid)
        tips[gid] = [_perplexity_tip(row)]
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", labelcolor=INK)
    axis.set_xlabel("perplexity")
    if len(optimizers) > 1:
        _key_below(figure, shown, look, colours=False)
    asked = percent(next(row.asked for row in shown if row.method != DENSE))
    return Picture(
        f"Perplexity of each method at {asked} sparsity",
        "Final perplexity; bars are 95 % intervals of the mean over seeds. Dense rows are beside "
        "the pruned ones.",
        svg(
            figure,
            "sparsity",
            f"Final perplexity at {asked} sparsity",
            " ".join(f"{tip}." for texts in tips.values() for tip in texts),
            tips,
        ),
    )


def _sparsity_panel(
    axis: Any, rows: Sequence[Row], look: Look, key: str, tips: dict[str, list[str]]
) -> None:
    for row in rows:
        if row.method == DENSE:
            axis.axhline(row.perplexity.mean, color=INK, linewidth=1.0, label=row.series)
    series = dict.fromkeys(row.series for row in rows if row.method != DENSE)
    for number, name in enumerate(series):
        own = sorted((r for r in rows if r.series == name), key=lambda row: row.asked)
        means = [row.perplexity for row in own]
        x = [100.0 * statistics.fmean(row.results("sparsity_reached")) for row in own]
        y = [found.mean for found in means]
        reach = [
            [found.mean - (found.low or found.mean) for found in means],
            [(found.high or found.mean) - found.mean for found in means],
        ]
        colour = look.colour(own[0])
        axis.errorbar(x, y, yerr=reach, color=colour, fmt="none", elinewidth=1.0)
        axis.plot(x, y, look.dash(own[0]), color=colour, label=name)
        gid = f"{key}-{number}"
        axis.plot(x, y, "o", color=colour, gid=gid)
        tips[gid] = [_perplexity_tip(row) for row in own]
    axis.legend(loc="upper left")
    axis.set_xlabel("sparsity reached (%)")
    axis.set_ylabel("perplexity")
    axis.label_outer(remove_inner_ticks=True)


def _perplexity_tip(row: Row) -> str:
    found = row.perplexity
    reach = "" if found.low is None else f", 95 % interval {found.low:.3f} to {found.high:.3f}"
    return f"{full_name(row)}: perplexity {found.mean:.3f}{reach}, {found.count} seeds"


def costs(rows: Sequence[Row], look: Look, shared: bool) -> Picture | None:
    """Draw perplexity against memory, size and time, with the Pareto fronts."""
    memory = (
        "peak_device_bytes" if any(r.of("peak_device_bytes") for r in rows) else "peak_host_bytes"
    )
    where = "device" if memory == "peak_device_bytes" else "host"
    panels: list[tuple[str, Callable[[Row], float | None]]] = [
        (f"peak {where} memory (MB)", lambda row: megabytes(row.of(memory))),
        ("size on disk (MB)", lambda row: megabytes(size_on_disk(row))),
        ("training time (s)", lambda row: mean_of(row, "seconds")),
    ]
    if len(rows) < 2:
        return None
    figure = Figure(figsize=(WIDTH, 3.3))
    axes = figure.subplots(1, 3, sharey=True)
    tips: dict[str, list[str]] = {}
    for number, (axis, (title, of)) in enumerate(zip(axes, panels, strict=True)):
        _cost_panel(axis, rows, look, of, f"cost-{number}", tips)
        axis.set_xlabel(title)
    axes[0].set_ylabel("perplexity")
    _key_below(figure, rows, look)
    warning = " Runs shared the machine: their times are not comparable." if shared else ""
    return Picture(
        "Perplexity against memory, size and time",
        "Lower left is better. The stepped line is the Pareto front of the means: no other row has "
        "both less of the cost and less perplexity. Size on disk is that of the smaller form, "
        f"dense or sparse, in fp32.{warning}",
        svg(
            figure,
            "costs",
            "Final perplexity against memory, size on disk and training time",
            " ".join(f"{tip}." for texts in tips.values() for tip in texts),
            tips,
        ),
    )


def _cost_panel(
    axis: Any,
    rows: Sequence[Row],
    look: Look,
    of: Callable[[Row], float | None],
    key: str,
    tips: dict[str, list[str]],
) -> None:
    points = []
    for number, row in enumerate(rows):
        x, y = of(row), row.perplexity.mean
        if x is None:
            continue
        points.append((x, y, row))
        gid = f"{key}-{number}"
        axis.plot([x], [y], look.marker(row), color=look.colour(row), alpha=0.9, gid=gid)
        tips[gid] = [f"{full_name(row)}: {x:,.4g}, perplexity {y:.3f}"]
    front = pareto([(x, y) for x, y, _ in points])
    if front:
        axis.step(*zip(*front, strict=True), where="post", color=ACCENT, linewidth=0.9, zorder=1)
    axis.margins(0.08)
    axis.label_outer(remove_inner_ticks=True)


def _key_below(figure: Any, rows: Sequence[Row], look: Look, colours: bool = True) -> None:
    """Draw a legend below: markers are optimizers and, with `colours`, colours are methods."""
    from matplotlib.lines import Line2D

    handles = []
    for name, row in {row.series: row for row in rows if colours}.items():
        handles.append(Line2D([], [], color=look.colour(row), linewidth=3.0, label=name))
    for name, row in {row.optimizer: row for row in rows}.items():
        handles.append(
            Line2D([], [], color=MUTED, marker=look.marker(row), linestyle="none", label=name)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front: points that no other point beats in one coordinate for free."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points)):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def size_on_disk(row: Row) -> float | None:
    """Return the bytes of the smaller form of a row's weights, mean over seeds."""
    sizes = [mean_of(row, name) for name in ("dense_bytes", "sparse_bytes")]
    return min((size for size in sizes if size is not None), default=None)
