"""The report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from scripts.reports.content import Report
from scripts.reports.overview import overview_grid, usual_text
from scripts.reports.provenance import common_options, options_text, provenance, spec_text
from scripts.reports.runs import Run
from scripts.reports.single_run import facts, losses_grid, settings_grid
from scripts.reports.speed_cells import (
    efficiency_grid,
    efficiency_notes,
    speedup_grid,
    speedup_notes,
)
from scripts.reports.speedup import speedups
from scripts.reports.table_cells import (
    comparisons_grid,
    costs_grid,
    costs_of,
    details,
    results_grid,
)
from scripts.reports.table_files import markdown_text, plain
from scripts.reports.tuning import Tuning
from scripts.reports.tuning_cells import rule, tuning_grid, widths_grid
from scripts.reports.words import where


def as_markdown(report: Report) -> str:
    """Return report.md."""
    blocks = [f"# {plain(report.title)}", f"**{plain(report.headline)}**"]
    blocks.append(plain(report.split_note))
    blocks += _of_one(report.single) if report.single else _of_rows(report)
    made = "\n".join(
        f"- {plain(title)}: {plain(value)}" for title, value in provenance(report.runs)
    )
    blocks += ["## How this was made", made]
    if report.single:
        blocks.append(f"All options: {plain(options_text(report.single.options))}")
    else:
        blocks.append(f"Options that all rows have alike: {plain(common_options(report.rows))}")
    if report.matrix:
        blocks.append(_code(spec_text(report.matrix.spec)))
    commands = "\n".join(run.command for run in report.runs if run.command)
    blocks.append(_code(commands))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _of_one(run: Run) -> list[str]:
    """Return the result of one run, what is to be known of it, and the text it wrote."""
    losses = losses_grid(run)
    blocks = [markdown_text(losses) if losses else ""]
    blocks.append("\n".join(f"- {plain(title)}: {plain(value)}" for title, value in facts(run)))
    blocks += [_items([f"{problem}." for problem in run.problems])]
    if run.sample:
        blocks += ["## Sample", _code(run.sample)]
    return [*blocks, "## Optimizer and schedule", markdown_text(settings_grid(run))]


def _of_rows(report: Report) -> list[str]:
    """Return what is said and shown of several runs."""
    blocks: list[str] = []
    for paragraph in report.verdict:
        lines = "\n".join(f"- {plain(text)}" for text in paragraph.sentences)
        blocks.append(f"**{plain(paragraph.heading)}**\n\n{lines}")
    if report.remarks:
        blocks.append("## To know first\n\n" + _items(report.remarks))
    if report.unlike:
        blocks += ["## All runs", markdown_text(overview_grid(report.rows))]
        blocks.append(plain(usual_text(report.rows)))
        blocks.append(markdown_text(costs_of(report.rows)))
    for table in report.tables:
        if report.unlike and not table.comparisons:
            continue
        blocks.append(f"## {where(table.asked)}")
        blocks.append("" if report.unlike else markdown_text(results_grid(table)))
        blocks.append(_items(details(table)))
        if table.comparisons:
            blocks.append(markdown_text(comparisons_grid(table, report.legend)))
        if found := list(speedups(table.comparisons)):
            grid = speedup_grid(found, report.shared)
            blocks += [
                _items(list(speedup_notes(found))),
                markdown_text(grid) if grid.lines else "",
            ]
        blocks.append("" if report.unlike else markdown_text(costs_grid(table)))
    if report.efficiencies:
        blocks += ["## Data efficiency", markdown_text(efficiency_grid(report.efficiencies))]
        blocks.append(_items(list(efficiency_notes(report.efficiencies))))
    if report.tuning:
        blocks += ["## Learning rates", *_tuning(report.tuning)]
    if report.rate_curves:
        grid = widths_grid(report.rate_curves)
        blocks += ["## How wide the valley of the rate is", markdown_text(grid)]
    blocks += _without_results(report)
    return blocks


def _tuning(tuning: Tuning) -> Iterator[str]:
    grid = tuning_grid(tuning)
    yield _items([*rule(tuning), *tuning.remarks])
    yield markdown_text(grid)


def _without_results(report: Report) -> Iterator[str]:
    if report.unfinished:
        texts = [f"{run.name}: {run.status}" for run in report.unfinished]
        yield "## Without results\n\n" + _items(texts)
    if report.matrix and report.matrix.failures:
        yield "## Failed cells"
        for failure in report.matrix.failures:
            yield f"- {plain(failure.cell)}: {plain(failure.kind)} {plain(failure.reason)}"
            yield _code(failure.tail)
    if report.matrix and report.matrix.left:
        yield f"## Left to run\n\n{len(report.matrix.left)} cells: " + plain(
            ", ".join(report.matrix.left)
        )


def _items(texts: list[str]) -> str:
    return "\n".join(f"- {plain(text)}" for text in texts)


def _code(text: str) -> str:
    """Return a block of text that nothing in it can end."""
    if not text:
        return ""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
