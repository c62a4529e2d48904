"""The tables of speed-up and of data efficiency as text, and the sentences beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpt2.config.text import counted, joined
from scripts.reports.efficiency import Curve
from scripts.reports.horizons import Efficiency
from scripts.reports.speedup import Speedup
from scripts.reports.table_cells import UNKNOWN, Grid

#: Most names in a sentence; more are only counted.
_MOST = 5


def speedup_grid(found: Sequence[Speedup], shared: bool) -> Grid:
    """Return when rows reached the final loss of their controls, without those that never did.

    shared: runs shared a machine, so seconds are left out.
    """
    titles = (
        "",
        "reaches the end of",
        "its loss",
        "at step",
        "95 % interval",
        "tokens",
        "seconds",
        "speed-up in steps",
    )
    lines = tuple(
        (
            each.row.label,
            each.control.label,
            f"{each.loss:.4f}",
            _whole(each.steps),
            _range(each.low, each.high, 0),
            _whole(each.tokens),
            UNKNOWN if shared or each.seconds is None else f"{each.seconds:,.1f}",
            UNKNOWN if each.factor is None else f"{each.factor:.2f}",
        )
        for each in found
        if each.steps is not None
    )
    return Grid(titles, lines)


def speedup_notes(found: Sequence[Speedup]) -> Iterator[str]:
    """Yield the rows that never reached it, and how the numbers are computed."""
    never = [f"{each.row.label} ({each.control.label})" for each in found if each.steps is None]
    if len(never) > _MOST:
        yield f"{len(never)} of {len(found)} pairs never reached the final loss of the control."
    elif never:
        yield f"Never reached the final loss of the row in brackets: {joined(never)}."
    if len(never) < len(found):
        yield (
            "Read from the mean validation curve over seeds, with straight lines between "
            "evaluations, at the final sparsity only. A run planned to end there would have a "
            "lower rate and loss, so this understates the speed-up; data efficiency does not."
        )


def efficiency_grid(found: Sequence[Efficiency]) -> Grid:
    """Return the data-efficiency factors, a line for each row with one."""
    titles = (
        "",
        "against",
        "tokens",
        "as many tokens of the control",
        "factor",
        "95 % interval",
        "seeds",
    )
    lines = []
    for each in found:
        shown = each.factor
        if shown is None:
            reason = (
                "no curve fits the control" if each.curve is None else "below the curve's limit"
            )
            tokens = sum(each.row.results("tokens")) / len(each.row.runs)
            lines.append((each.row.label, each.control.label, f"{tokens:,.0f}", reason, *"---"))
            continue
        beyond = " (beyond its longest run)" if shown.beyond else ""
        lines.append(
            (
                each.row.label,
                each.control.label,
                f"{shown.tokens:,.0f}",
                f"{shown.factor * shown.tokens:,.0f}{beyond}",
                f"{shown.factor:.3f}",
                _range(shown.low, shown.high, 3),
                str(shown.seeds),
            )
        )
    return Grid(titles, tuple(lines))


def efficiency_notes(found: Sequence[Efficiency]) -> Iterator[str]:
    """Yield the curves, and whether they were tested."""
    told: dict[Curve, str] = {}
    for each in found:
        if each.curve is not None:
            told.setdefault(each.curve, f"{each.control.optimizer} {each.control.method}")
    for curve, name in told.items():
        text = (
            f"{name.removesuffix(' none')}: loss = {curve.a:.4g} x tokens^-{curve.b:.4f} + "
            f"{curve.c:.4f}, of {counted(len(curve.tokens), 'horizon')}. "
        )
        if curve.residual is None:
            yield text + "Three points fit three numbers exactly: the fit is untested."
        else:
            yield text + f"Its residual is {curve.residual:.4f} nats."


def _whole(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def _range(low: float | None, high: float | None, digits: int) -> str:
    if low is None or high is None:
        return UNKNOWN
    return f"{low:,.{digits}f} to {high:,.{digits}f}"
