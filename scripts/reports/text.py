"""The report as Markdown, and its numbers as CSV and JSON lines."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from gpt2.config.text import joined, markdown_table
from gpt2.run_dir.folder import finite
from gpt2.run_dir.records import Summary
from scripts.reports.comparisons import Comparison
from scripts.reports.confounds import confounds
from scripts.reports.content import Report
from scripts.reports.provenance import common_options, provenance, spec_text
from scripts.reports.rows import Row
from scripts.reports.runs import Run
from scripts.reports.speed_cells import (
    efficiency_grid,
    efficiency_notes,
    speedup_grid,
    speedup_notes,
)
from scripts.reports.speedup import speedups
from scripts.reports.table_cells import UNKNOWN, Grid, comparisons_grid, costs_grid, results_grid
from scripts.reports.tuning import Tuning
from scripts.reports.words import where

#: Columns of results.csv that another execution of the same runs changes.
MEASURED = (
    "seconds",
    "tokens_per_second",
    "peak_device_bytes",
    "peak_host_bytes",
    "start",
    "end",
    "resumes",
)
_FROM_SUMMARY = (
    "sparsity_asked",
    "sparsity_reached",
    "sparsity_whole",
    "val_loss",
    "val_perplexity",
    "bits_per_byte",
    "steps",
    "tokens",
    "parameters",
    "skipped_steps",
    "spiked_steps",
    "rollbacks",
    "optimizer_state_bytes",
    "dense_bytes",
    "sparse_bytes",
)
#: The newest columns, at the end: what reads the file by number finds the others where they were.
_OF_TEST = tuple(
    f"{split}_{measure}"
    for split in ("test", "val_test")
    for measure in ("loss", "perplexity", "bits_per_byte")
)
COLUMNS = (
    "run",
    "role",
    "row",
    "optimizer",
    "pruning_method",
    "learning_rate",
    "seed",
    "status",
    *_FROM_SUMMARY,
    "effective_batch",
    "precision",
    "compiled",
    "data_hash",
    "code",
    *MEASURED,
    *_OF_TEST,
)


def as_csv(report: Report) -> str:
    """Return results.csv: one line for each run, as its summary.json and run.json have it."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run, role, row in _ordered(report):
        writer.writerow(_line(run, role, row))
    return stream.getvalue()


def as_json_lines(report: Report) -> str:
    """Return results.jsonl: every run with all it says, every row, and every comparison."""
    lines: list[dict[str, Any]] = []
    for run, role, row in _ordered(report):
        lines.append(
            {
                "kind": "run",
                **_line(run, role, row),
                "options": dict(run.options),
                "record": dict(run.record.as_read),
                "summary": _final(run),
                "problems": list(run.problems),
            }
        )
    lines += [_row_line(row) for row in report.rows]
    lines += [_comparison_line(t.asked, c) for t in report.tables for c in t.comparisons]
    lines += [s.record() for t in report.tables for s in speedups(t.comparisons)]
    lines += [each.record() for each in report.efficiencies]
    return "".join(json.dumps(finite(line), allow_nan=False) + "\n" for line in lines)


def _ordered(report: Report) -> Iterator[tuple[Run, str, str]]:
    """Yield every run with its role and its row's name: by row and seed, then the others."""
    seen: set[int] = set()
    for row in report.rows:
        for runs, role in ((row.runs, "reported"), (row.repeats, "repeat")):
            for run in runs:
                seen.add(id(run))
                yield run, role, row.label
    reported = {id(run) for run in report.reported}
    for run in sorted(report.runs, key=lambda run: run.name):
        if id(run) not in seen:
            yield run, "unfinished" if id(run) in reported else "tuning", ""


def _line(run: Run, role: str, row: str) -> dict[str, Any]:
    record, summary = run.record, run.summary or Summary()
    return {
        "run": run.name,
        "role": role,
        "row": row,
        "optimizer": run.options.get("OPTIMIZER", ""),
        "pruning_method": run.options.get("PRUNING_METHOD", ""),
        "learning_rate": run.options.get("LEARNING_RATE", ""),
        "seed": run.seed,
        "status": run.status,
        **{name: getattr(summary, name) for name in (*_FROM_SUMMARY, *_OF_TEST)},
        "effective_batch": record.effective_batch,
        "precision": record.precision,
        "compiled": record.compiled,
        "data_hash": record.data.data_hash if record.data else None,
        "code": record.code,
        **{name: getattr(summary, name) for name in MEASURED[:4]},
        "start": record.start,
        "end": record.end,
        "resumes": None if record.resumes is None else len(record.resumes),
    }


def _final(run: Run) -> dict[str, Any] | None:
    """Return the results of a run but for the best on the way, which is no result."""
    if run.summary is None:
        return None
    return {name: value for name, value in run.summary.as_read.items() if name != "best"}


def _row_line(row: Row) -> dict[str, Any]:
    numbers = {
        name: dataclasses.asdict(found)
        for name in ("val_loss", "test_loss", "seconds", "tokens_per_second")
        if (found := row.over_seeds(name))
    }
    return {
        "kind": "row",
        "row": row.label,
        "sparsity_asked": row.asked,
        "seeds": list(row.seeds),
        "split": row.split,
        "loss": dataclasses.asdict(row.loss),
        "perplexity": dataclasses.asdict(row.perplexity),
        **numbers,
    }


def _comparison_line(asked: float, found: Comparison) -> dict[str, Any]:
    return {
        "kind": "comparison",
        "sparsity_asked": asked,
        "row": found.row.label,
        "against": found.against.label,
        "seeds": list(found.seeds),
        "difference": dataclasses.asdict(found.difference) if found.difference else None,
        "p": found.p,
        "p_holm": found.corrected,
        "detectable": found.detectable,
        "outcome": found.outcome,
        "split": found.row.split,
        "objections": list(found.objections),
        "also_differ": confounds(found.row, found.against),
        "worst_case": dataclasses.asdict(found.worst) if found.worst else None,
        "p_worst_case_holm": found.p_worst,
        "equivalence": dataclasses.asdict(found.equivalence) if found.equivalence else None,
    }


def as_markdown(report: Report) -> str:
    """Return report.md."""
    blocks = [f"# {plain(report.title)}", f"**{plain(report.headline)}**"]
    blocks.append(plain(report.split_note))
    for paragraph in report.verdict:
        lines = "\n".join(f"- {plain(text)}" for text in paragraph.sentences)
        blocks.append(f"**{plain(paragraph.heading)}**\n\n{lines}")
    if report.remarks:
        blocks.append("## To know first\n\n" + _items(report.remarks))
    for table in report.tables:
        blocks += [f"## {where(table.asked)}", grid_table(results_grid(table))]
        if table.comparisons:
            blocks.append(grid_table(comparisons_grid(table)))
        if found := list(speedups(table.comparisons)):
            grid = speedup_grid(found, report.shared)
            blocks += [_items(list(speedup_notes(found))), grid_table(grid) if grid.lines else ""]
        blocks.append(grid_table(costs_grid(table)))
    if report.efficiencies:
        blocks += ["## Data efficiency", grid_table(efficiency_grid(report.efficiencies))]
        blocks.append(_items(list(efficiency_notes(report.efficiencies))))
    if report.tuning:
        blocks += ["## Learning rates", *_tuning(report.tuning)]
    blocks += _without_results(report)
    made = "\n".join(
        f"- {plain(title)}: {plain(value)}" for title, value in provenance(report.runs)
    )
    blocks += ["## How this was made", made]
    blocks.append(f"Options that all rows have alike: {plain(common_options(report.rows))}")
    if report.matrix:
        blocks.append(_code(spec_text(report.matrix.spec)))
    commands = "\n".join(run.command for run in report.runs if run.command)
    blocks.append(_code(commands))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _tuning(tuning: Tuning) -> Iterator[str]:
    grid = tuning_grid(tuning)
    yield _items([*rule(tuning), *tuning.remarks])
    yield grid_table(grid)


def rule(tuning: Tuning) -> list[str]:
    """Say how rates were chosen."""
    seeds = ", ".join(map(str, tuning.seeds))
    if tuning.options:
        return [
            f"Every row runs with the trial of {joined(tuning.options)} whose mean final "
            f"validation loss was lowest, of its own trials on seeds {seeds}; of equal ones "
            "with the smaller values; a trial that fails on any of them is out. All rows try the "
            "same points of the search space. These seeds are not among those reported."
        ]
    return [
        "Each optimizer runs at the rate whose mean final validation loss was lowest, of its dense "
        f"runs with the tuning seeds ({seeds}); of equal ones at the smaller; a rate that "
        "fails on any of them is out. These seeds are not among those reported.",
    ]


def tuning_grid(tuning: Tuning) -> Grid:
    """Return every rate that was tried."""
    seeds = tuning.seeds
    names = tuning.options
    titles = ("", *(names or ("rate",)), *(f"seed {seed}" for seed in seeds), "mean loss", "")
    lines = tuple(
        (
            trial.row,
            *([trial.values.get(n, UNKNOWN) for n in names] if names else [trial.rate]),
            *(f"{trial.losses[seed]:.4f}" if seed in trial.losses else UNKNOWN for seed in seeds),
            UNKNOWN if trial.mean is None else f"{trial.mean:.4f}",
            "chosen" if trial.chosen else "",
        )
        for trial in tuning.trials
    )
    return Grid(titles, lines, tuple("chosen" if t.chosen else "" for t in tuning.trials))


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


def plain(text: str) -> str:
    """Return text in which no character means anything to Markdown or HTML."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", line)


def grid_table(grid: Grid) -> str:
    """Return a table in which no cell means anything to Markdown."""
    return markdown_table([*map(plain, grid.titles)], ([*map(plain, line)] for line in grid.lines))
