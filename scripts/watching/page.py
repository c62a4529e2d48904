"""The page: its frame, and the body that the browser reloads every two seconds."""

from __future__ import annotations

import base64
import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from gpt2.config.sizes import show_size
from gpt2.config.text import counted, rough_duration
from scripts.study.quick import continuation
from scripts.watching.chart import CARD, FEW, SIZE, Line, chart, limits_of, spark
from scripts.watching.followed import Point
from scripts.watching.view import MatrixView, MeasuringView, RunView

_HERE = Path(__file__).resolve().parent
_SCRIPT = (_HERE / "watch.js").read_text(encoding="utf-8")
_STYLE = "\n".join(
    path.read_text(encoding="utf-8")
    for path in (_HERE.parent / "reports" / "page.css", _HERE / "watch.css")
)
_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
#: The page may load itself, and the body from its own server.
POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_DIGEST}'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
#: The states of a cell in display order, and other words for some.
STATES = ("finished", "running", "unfinished", "failed", "left", "skipped")
_WORDS = {"left": "to run"}
#: Seconds without a line of metrics after which the page shows it: an evaluation, or a hang.
_SILENT = 60.0
#: Running cells with a card of their own, colours of rows, and cells whose curves share a chart.
_CARDS, _COLOURS, _OVERLAID = 12, 8, 24
#: The other curves of one run: a title, and the number in metrics.jsonl.
_FURTHER = (
    ("learning rate", "learning_rate"),
    ("gradient norm", "grad_norm"),
    ("tokens per second", "tokens_per_second"),
    ("sparsity", "sparsity"),
)


def frame(title: str, body: str) -> str:
    """Return the whole page around its body."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<noscript><meta http-equiv="refresh" content="5"></noscript>
<style>
{_STYLE}
</style>
</head>
<body>
<p id="still" role="status"></p>
<main>
{body}
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def gone(text: str) -> str:
    """Return the body of a page with nothing to show."""
    return f'<p class="gone">{escape(text)}</p>'


def run_body(run: RunView) -> str:
    """Return the body of a single run."""
    return (
        f"<header><h1>{escape(run.name)} {_state(run.status)}</h1>"
        f'<p class="sub">{escape(", ".join(run.facts))}</p></header>'
        f"{_progress(run)}{_numbers(run)}{_charts(run)}"
    )


def measuring_body(matrix: MeasuringView) -> str:
    """Return the body of a matrix that makes short runs before its first run."""
    under_way = f"step {matrix.step} of {matrix.steps}" if matrix.step else "starting"
    rows = "".join(
        f"<tr><td>{escape(kind)}</td><td>{short.step_seconds:.2g} s</td>"
        f"<td>{rough_duration(short.other_seconds)}</td></tr>"
        for kind, short in matrix.done.items()
    )
    table = (
        "<table><thead><tr><th>row</th><th>a step takes</th><th>start and end</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    return (
        f'<header><h1>{escape(matrix.name)} <span class="state running">measuring</span></h1>'
        f'<p class="sub">by {escape(matrix.runner)}</p></header>'
        f"<p>A short run of {matrix.steps} steps measures how fast each row is. The runs that are "
        "compared have not started; this page shows them as soon as they do.</p>"
        f"{_bar([('running', matrix.step / matrix.steps)])}"
        f'<p class="legend">short run: {under_way}; {counted(len(matrix.done), "row")} measured</p>'
        f'<section class="measured">{table if matrix.done else ""}</section>'
    )


def matrix_body(matrix: MatrixView, chosen: str) -> str:
    """Return the body of a matrix, with the details of the cell `chosen`, if it exists."""
    cells = [cell for cell in matrix.cells if cell.name == chosen]
    running = [cell for cell in matrix.cells if cell.status == "running" and cell.name != chosen]
    parts = [_head(matrix)]
    for cell in cells:
        parts.append(
            f'<section class="chosen"><h2>{escape(cell.name)} {_state(cell.status)}</h2>'
            f'<p class="note"><a href="/">close</a></p>{_reason(cell)}'
            f"{_progress(cell)}{_numbers(cell)}{_charts(cell)}</section>"
        )
    if running:
        cards = "".join(map(_card, running[:_CARDS]))
        more = len(running) - _CARDS
        note = f'<p class="note">and {counted(more, "other cell")}</p>' if more > 0 else ""
        parts.append(f'<section><h2>Running</h2><div class="cards">{cards}</div>{note}</section>')
    failed = [cell for cell in matrix.cells if cell.status == "failed"]
    if failed:
        lines = "".join(f"<li>{_link(one)}: {escape(one.reason)}</li>" for one in failed)
        parts.append(f'<section><h2>Failed</h2><ul class="plain">{lines}</ul></section>')
    parts.append(_grid(matrix))
    return "\n".join(parts)


def _head(matrix: MatrixView) -> str:
    counts = [(name, matrix.count(name)) for name in STATES]
    legend = "".join(
        f"<span><b>{count}</b> {_WORDS.get(name, name)}</span>" for name, count in counts if count
    )
    left = f"about {rough_duration(matrix.left)} left" if matrix.left else ""
    over = matrix.count("finished") + matrix.count("skipped") == len(matrix.cells)
    idle = "all cells have finished" if over else continuation(matrix.name)
    said = ", ".join(filter(None, (f"run by {matrix.runner}" if matrix.runner else idle, left)))
    shares = [(name, count / len(matrix.cells)) for name, count in counts if count]
    return (
        f"<header><h1>Matrix {escape(matrix.name)}</h1>"
        f'<p class="sub">{escape(said)}</p>{_bar(shares)}<p class="legend">{legend}</p></header>'
    )


def _bar(shares: Iterable[tuple[str, float]]) -> str:
    inside = "".join(f'<i class="{name}" style="width:{share:.2%}"></i>' for name, share in shares)
    return f'<div class="bar" aria-hidden="true">{inside}</div>'


def _state(status: str) -> str:
    word = _WORDS.get(status, status)
    return f'<span class="state {escape(status)}">{escape(word)}</span>'


def _reason(run: RunView) -> str:
    return f'<p class="gone">{escape(run.reason)}</p>' if run.reason else ""


def _link(cell: RunView) -> str:
    return f'<a href="/?cell={quote(cell.name)}">{escape(cell.name)}</a>'


def _progress(run: RunView) -> str:
    kind = "finished" if run.status == "finished" else "running"
    return _bar([(kind, run.share)]) if run.share is not None else ""


def _numbers(run: RunView) -> str:
    """Return the numbers that are known."""
    steps = f"{run.step:,}" + (f" / {run.steps:,}" if run.steps else "")
    known = [
        ("step", steps),
        ("training loss", _text(run.loss, ".4f")),
        ("validation loss", _text(run.val_loss, ".4f")),
        ("tokens/s", _text(run.tokens_per_second, ",.0f")),
        ("memory, peak", show_size(run.memory) if run.memory else ""),
        ("time left", rough_duration(run.left) if run.left is not None else ""),
        ("no line for", rough_duration(run.silent) if run.silent >= _SILENT else ""),
    ]
    inside = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in known if text)
    return f'<dl class="numbers">{inside}</dl>'


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _losses(run: RunView, size: tuple[int, int] = SIZE) -> str:
    lines = [
        Line("training", run.curves.get("loss", ()), "muted"),
        Line("validation", run.curves.get("val_loss", ()), "series-0", dots=True),
    ]
    title = "loss (nats per token): training grey, validation blue"
    return chart(title, lines, run.steps, size, _few_logged(run, lines[0].points))


def _few_logged(run: RunView, points: Sequence[Point]) -> str:
    """Return the note of a chart with few logged points; empty for others."""
    if run.log_interval is None or not 0 < len(points) < FEW:
        return ""
    return f"logged every {counted(run.log_interval, 'step')}"


def _charts(run: RunView) -> str:
    """Return all curves of a run that are not flat."""
    found = [_losses(run)]
    for title, name in _FURTHER:
        points = run.curves.get(name, ())
        if any(value for _, value in points):
            found.append(
                chart(title, [Line(title, points)], run.steps, note=_few_logged(run, points))
            )
    return f'<div class="charts">{"".join(found)}</div>'


def _card(cell: RunView) -> str:
    return (
        f'<article class="card"><h3>{_link(cell)}</h3>{_progress(cell)}'
        f"{_numbers(cell)}{_losses(cell, CARD)}</article>"
    )


def _grid(matrix: MatrixView) -> str:
    """Return the table of all cells: a row for each label, a column for each seed."""
    seeds = list(dict.fromkeys(cell.seed for cell in matrix.cells))
    rows: dict[str, dict[int | None, list[RunView]]] = {}
    for cell in matrix.cells:
        rows.setdefault(cell.label, {}).setdefault(cell.seed, []).append(cell)
    curves = {
        label: _row_curves(row.values(), "val_loss", number)
        for number, (label, row) in enumerate(rows.items())
    }
    limits = limits_of([line for lines in curves.values() for line in lines])
    head = "".join(f"<th>seed {seed}</th>" for seed in seeds)
    lines = []
    for label, row in rows.items():
        tiles = "".join(f"<td>{''.join(map(_tile, row.get(seed, ())))}</td>" for seed in seeds)
        lines.append(
            f"<tr><td>{escape(label)}</td><td>{spark(curves[label], limits)}</td>"
            f"<td>{_mean(row.values())}</td>{tiles}</tr>"
        )
    return (
        '<section><h2>Cells</h2><div class="scroll" tabindex="0"><table class="grid"><thead><tr>'
        f"<th>cell</th><th>validation</th><th>mean</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="note">Validation loss in nats per token: the result of a finished cell, the '
        "last evaluation of a running one. The mean is over the finished cells. Click a cell to "
        "see its curves. Which differences are significant: <code>make report</code>.</p>"
        f"{_overlaid(rows)}</section>"
    )


def _overlaid(rows: Mapping[str, Mapping[int | None, Sequence[RunView]]]) -> str:
    """Return charts of all cells in the colours of their rows; empty if there are too many."""
    cells = sum(len(found) for row in rows.values() for found in row.values())
    if len(rows) > _COLOURS or cells > _OVERLAID:
        return ""
    charts = []
    for title, name in (("validation loss", "val_loss"), ("training loss", "loss")):
        lines = [
            line
            for number, row in enumerate(rows.values())
            for line in _row_curves(row.values(), name, number, dots=name == "val_loss")
        ]
        charts.append(chart(f"{title} (nats per token) of all cells, in the colours above", lines))
    return f'<div class="charts">{"".join(charts)}</div>'


def _row_curves(
    row: Iterable[Sequence[RunView]], name: str, number: int, dots: bool = False
) -> list[Line]:
    """Return a curve of each cell of a row, in the colour of the row's number."""
    colour = f"series-{number % _COLOURS}"
    cells = [cell for found in row for cell in found]
    return [Line(cell.name, cell.curves.get(name, ()), colour, dots) for cell in cells]


def _mean(row: Iterable[Sequence[RunView]]) -> str:
    """Return the mean loss of the finished cells of a row, with their number."""
    cells = [cell for found in row for cell in found]
    done = [c.val_loss for c in cells if c.status == "finished" and c.val_loss is not None]
    return f"{statistics.fmean(done):.4f} ({len(done)})" if done else ""


def _tile(cell: RunView) -> str:
    text = _WORDS.get(cell.status, cell.status)
    if cell.status == "finished":
        text = _text(cell.val_loss, ".4f") or "no number"
    elif cell.status == "running" and cell.share is not None:
        loss = cell.val_loss if cell.val_loss is not None else cell.loss
        text = " ".join(filter(None, (_text(loss, ".3f"), f"{cell.share:.0%}")))
    name = escape(cell.name)
    return (
        f'<a class="cell {cell.status}" id="cell-{name}" href="/?cell={quote(cell.name)}" '
        f'title="{name}: {cell.status}">{text}</a>'
    )
