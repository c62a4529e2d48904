"""The picture of one run alone: its training loss, its evaluations, and how sparse it became."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from scripts.reports.pictures.picture import WIDTH, Picture
from scripts.reports.pictures.svg import INK, MUTED, SERIES, svg
from scripts.reports.runs import Run
from scripts.reports.words import percent


def single_run(runs: Sequence[Run]) -> Picture | None:
    """Draw the curves of a run, finished or not, where it is the only one that has any."""
    with_curves = [run for run in runs if run.losses or run.evaluations]
    if len(runs) != 1 or not with_curves:
        return None
    (run,) = with_curves
    return _drawn(run)


def _drawn(run: Run) -> Picture:
    figure = Figure(figsize=(WIDTH, 3.8))
    axis = figure.subplots()
    tips: dict[str, list[str]] = {}
    if run.losses:
        steps, losses = zip(*run.losses, strict=True)
        axis.plot(steps, losses, color=MUTED, linewidth=1.0, alpha=0.8, label="training")
    if run.evaluations:
        steps, losses = zip(*[(s, loss) for s, loss, _ in run.evaluations], strict=True)
        axis.plot(steps, losses, color=SERIES[0], label="validation, whole split")
        every = -(-len(run.evaluations) // 200)
        shown = run.evaluations[::every]
        axis.plot(
            [e[0] for e in shown],
            [e[1] for e in shown],
            "o",
            color=SERIES[0],
            markersize=3.5,
            gid="evaluations",
        )
        tips["evaluations"] = [
            f"step {step:,}: validation loss {loss:.4f}"
            + (f", sparsity {percent(sparsity)}" if sparsity else "")
            for step, loss, sparsity in shown
        ]
    axis.set_xlabel("step")
    axis.set_ylabel("loss (nats per token)")
    lines = [*axis.get_lines()]
    if any(sparsity for _, _, sparsity in run.evaluations):
        lines += _sparsity(axis, run)
    axis.legend(handles=[line for line in lines if not str(line.get_label()).startswith("_")])
    last = f"{run.evaluations[-1][1]:.4f}" if run.evaluations else "not measured"
    return Picture(
        "Loss curves",
        "The loss of training is that of one step's batch; the validation loss is that of the "
        "whole split."
        + ("" if run.finished else " The run is not finished: no number here is a result."),
        svg(figure, "run", "Loss over the run", f"The last validation loss is {last}.", tips),
    )


def _sparsity(axis: Any, run: Run) -> list[Any]:
    """Draw the sparsity on an axis of its own, at the right."""
    right = axis.twinx()
    steps, shares = zip(*[(step, 100.0 * share) for step, _, share in run.evaluations], strict=True)
    drawn: list[Any] = right.plot(steps, shares, "--", color=INK, linewidth=0.9, label="sparsity")
    right.set_ylabel("sparsity (%)")
    right.set_ylim(0, 105)
    right.grid(visible=False)
    return drawn
