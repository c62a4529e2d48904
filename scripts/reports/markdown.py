"""The report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from scripts.reports.content import Report
from scripts.reports.provenance import common_options, options_text, provenance, spec_text
from scripts.reports.runs import Run
from scripts.reports.sections import Sections
from scripts.reports.single_run import facts, losses_grid, settings_grid
from scripts.reports.table_cells import Grid
from scripts.reports.table_files import markdown_text, plain


def as_markdown(report: Report) -> str:
    """Return report.md."""
    blocks = [f"# {plain(report.title)}"]
    blocks += [f"**{plain(text)}**" for text in report.headlines]
    blocks += [plain(report.tally), plain(report.split_note)]
    blocks += _of_one(report.single) if report.single else _of_rows(report)
    made = "\n".join(
        f"- {plain(title)}: {plain(value)}" for title, value in provenance(report.runs)
    )
    blocks += ["## How this was made", made]
    if report.single:
        blocks.append(f"All options: {plain(options_text(report.single.options))}")
    else:
        blocks.append(f"Options that all rows share: {plain(common_options(report.rows))}")
    if report.matrix:
        blocks.append(_code(spec_text(report.matrix.spec)))
    commands = "\n".join(run.command for run in report.runs if run.command)
    blocks.append(_code(commands))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _of_one(run: Run) -> list[str]:
    """Return the result of one run, its facts, and the text it wrote."""
    blocks = [_table(losses_grid(run))]
    blocks.append("\n".join(f"- {plain(title)}: {plain(value)}" for title, value in facts(run)))
    blocks += [_items([f"{problem}." for problem in run.problems])]
    if run.sample:
        blocks += ["## Sample", _code(run.sample)]
    return [*blocks, "## Optimizer and schedule", _table(settings_grid(run))]


def _of_rows(report: Report) -> list[str]:
    """Return the verdict on several runs, the remarks and the tables."""
    blocks: list[str] = []
    for paragraph in report.verdict:
        blocks.append(f"**{plain(paragraph.heading)}**\n\n{_items(list(paragraph.sentences))}")
    if report.remarks:
        blocks.append("## Read this first\n\n" + _items(report.remarks))
    shown = Sections(report)
    if shown.overview:
        blocks += ["## All runs", _table(shown.overview), plain(shown.usual)]
        blocks.append(_table(shown.overview_costs))
    for section in shown.by_sparsity:
        blocks += [f"## {section.heading}", _table(section.results), _items(section.details)]
        blocks += [_table(section.comparisons), _table(section.speedups)]
        blocks += [_items(section.speedup_notes), _table(section.costs)]
    for heading, grid, notes in (
        ("Data efficiency", shown.efficiencies, shown.efficiency_notes),
        ("Learning rates", shown.tuning, shown.tuning_notes),
        ("Range of good learning rates", shown.widths, []),
    ):
        blocks += [f"## {heading}", _items(notes), _table(grid)] if grid else []
    return [*blocks, *_without_results(report)]


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


def _table(grid: Grid | None) -> str:
    return markdown_text(grid) if grid else ""


def _items(texts: list[str]) -> str:
    return "\n".join(f"- {plain(text)}" for text in texts)


def _code(text: str) -> str:
    """Return a code block whose fence no line of the text can close."""
    if not text:
        return ""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
