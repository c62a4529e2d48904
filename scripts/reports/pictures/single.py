"""Pictures of one run: its losses and other logged numbers, over steps, tokens or time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from gpt2.config.text import counted
from scripts.reports.metrics import Axis, Point, axes_of, thinned
from scripts.reports.pictures.picture import WIDTH, Picture, over_axes
from scripts.reports.pictures.svg import MUTED, SERIES, style, svg
from scripts.reports.runs import Run
from scripts.reports.words import percent

#: Most marks with values on a curve. A curve of fewer points than FEW is its marks, joined faintly.
_MARKS, FEW = 60, 12
_LARGE = 4.5


def run_pictures(run: Run) -> list[Picture]:
    """Return the curves of a run, finished or not; none before its first logged step.

    Only `run` is read, so that a live page can draw with it.
    """
    if not run.points:
        return []
    axes = axes_of(run.points)
    with style():
        found = [_losses(run, axes)] if run.losses or run.evaluations else []
        panels = [panel for panel in _PANELS if any(panel.of(point) for point in run.points)]
        return [*found, _others(run, axes, panels)] if panels else found


def _losses(run: Run, axes: Sequence[Axis]) -> Picture:
    last = f"{run.evaluations[-1][1]:.4f}" if run.evaluations else "not measured"

    def draw(axis: Axis) -> str:
        figure = Figure(figsize=(WIDTH, 3.6))
        box = figure.subplots()
        tips: dict[str, list[str]] = {}
        trained = _line(run.points, axis, lambda point: point.loss)
        if trained:
            x, y = zip(*thinned(trained), strict=True)
            form = _form(len(trained), 1.0) | {"alpha": 0.8}
            box.plot(x, y, color=MUTED, label="training, one batch", **form)
        found = _line(run.points, axis, lambda point: point.val_loss)
        if found:
            x, y = zip(*found, strict=True)
            marker, label = "o" if len(found) < FEW else "", "validation, whole split"
            box.plot(x, y, marker, linestyle="-", color=SERIES[0], label=label, markersize=_LARGE)
            shown = [point for point in run.points if point.val_loss is not None]
            shown = _some(shown, 2 * _MARKS)
            _marks(box, shown, axis, lambda p: p.val_loss, SERIES[0], "evaluations")
            tips["evaluations"] = [_evaluation_tip(point) for point in shown]
        box.set_xlabel(axis.label)
        box.set_ylabel("loss (nats per token)")
        box.legend(loc="upper right")
        words = f"The last validation loss is {last}."
        return svg(figure, f"run-loss-{axis.key}", f"Loss over {axis.word}", words, tips)

    return over_axes(
        "Loss",
        "The training loss is that of one step's batch; the validation loss is that of the whole "
        "split."
        + _few_logged(run)
        + ("" if run.finished else " The run is not finished: no number is a result."),
        axes,
        draw,
    )


def _evaluation_tip(point: Point) -> str:
    sparse = f", sparsity {percent(point.sparsity)}" if point.sparsity else ""
    return f"step {point.step:,}: validation loss {point.val_loss:.4f}{sparse}"


@dataclass(frozen=True)
class _Panel:
    """A small curve: its title, the number it shows, the format of a value, and its colour."""

    title: str
    of: Callable[[Point], float | None]
    tell: Callable[[float], str]
    colour: str


_PANELS = (
    _Panel("learning rate", lambda point: point.learning_rate, lambda v: f"{v:.3g}", SERIES[1]),
    _Panel("gradient norm", lambda point: point.grad_norm, lambda v: f"{v:.3g}", SERIES[3]),
    _Panel("tokens/s", lambda point: point.tokens_per_second, lambda v: f"{v:,.0f}", SERIES[2]),
    _Panel(
        "sparsity (%)",
        lambda point: None if point.sparsity is None else 100.0 * point.sparsity,
        lambda v: f"{v:.4g} %",
        SERIES[4],
    ),
)


def _others(run: Run, axes: Sequence[Axis], panels: Sequence[_Panel]) -> Picture:
    """Draw the other logged numbers, two panels side by side, without those that are always 0."""
    down = -(-len(panels) // 2)

    def draw(axis: Axis) -> str:
        figure = Figure(figsize=(WIDTH, 0.2 + 2.1 * down))
        boxes = list(figure.subplots(down, 2, squeeze=False, sharex=True).flat)
        tips: dict[str, list[str]] = {}
        for number, (box, panel) in enumerate(zip(boxes, panels, strict=False)):
            _draw_panel(box, run.points, axis, panel, f"panel-{number}", tips)
            # The lowest panel of a column has the axis.
            box.tick_params(labelbottom=number + 2 >= len(panels))
            box.set_xlabel(axis.label if number + 2 >= len(panels) else "")
        for box in boxes[len(panels) :]:
            box.set_visible(False)
        words = " ".join(f"{panel.title}: {_range(run.points, panel)}." for panel in panels)
        title = f"What else was logged, over {axis.word}"
        return svg(figure, f"run-more-{axis.key}", title, words, tips)

    return over_axes(
        "Learning rate, gradient norm, speed and sparsity"
        if len(panels) == len(_PANELS)
        else "Learning rate, gradient norm and speed",
        "As they were logged: rate and gradient norm (before clipping) of one step, tokens/s of "
        "training alone since the line before." + _few_logged(run),
        axes,
        draw,
    )


def _draw_panel(
    box: Any,
    points: Sequence[Point],
    axis: Axis,
    panel: _Panel,
    gid: str,
    tips: dict[str, list[str]],
) -> None:
    line = _line(points, axis, panel.of)
    x, y = zip(*thinned(line), strict=True)
    box.plot(x, y, color=panel.colour, **_form(len(line), 1.1))
    shown = _some([point for point in points if panel.of(point) is not None], _MARKS)
    _marks(box, shown, axis, panel.of, panel.colour, gid)
    values = [(point.step, panel.of(point)) for point in shown]
    tips[gid] = [f"step {step:,}: {panel.tell(v)}" for step, v in values if v is not None]
    box.set_title(panel.title)
    if min(y) >= 0.0:
        box.set_ylim(bottom=0.0)


def _form(points: int, width: float) -> dict[str, Any]:
    """Return the style of a curve: of few points, marks on a dotted line."""
    if points < FEW:
        return {"linestyle": ":", "linewidth": 0.8, "marker": "o", "markersize": _LARGE}
    return {"linewidth": width}


def _few_logged(run: Run) -> str:
    """Return a sentence about a run with few logged steps; empty for others."""
    interval = run.options.get("LOG_INTERVAL", "")
    if len(run.losses) >= FEW or not interval.isdigit():
        return ""
    return (
        f" Logged every {counted(int(interval), 'step')} (--log-interval), and at the first and "
        "the last: the points are what was logged, the dotted lines only join them."
    )


def _line(
    points: Sequence[Point], axis: Axis, of: Callable[[Point], float | None]
) -> list[tuple[float, float]]:
    """Return the curve: the points with this number, on this axis."""
    found = [(axis.of(point), of(point)) for point in points]
    return [(x, y) for x, y in found if x is not None and y is not None]


def _marks(
    box: Any,
    points: Sequence[Point],
    axis: Axis,
    of: Callable[[Point], float | None],
    colour: str,
    gid: str,
) -> None:
    x, y = zip(*_line(points, axis, of), strict=True)
    box.plot(x, y, "o", color=colour, markersize=2.6, gid=gid)


def _some(points: Sequence[Point], most: int) -> list[Point]:
    """Return about `most` equally spaced points, including the last."""
    every = -(-len(points) // most)
    return list(reversed(list(reversed(points))[::every]))


def _range(points: Sequence[Point], panel: _Panel) -> str:
    values = [value for point in points if (value := panel.of(point)) is not None]
    low, high = panel.tell(min(values)), panel.tell(max(values))
    return low if low == high else f"{low} to {high}"
