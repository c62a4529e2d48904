"""The numbers of a report as CSV and JSON lines: every run, row and comparison."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from typing import Any

from gpt2.run_dir.folder import finite
from gpt2.run_dir.records import Summary
from scripts.reports.comparisons import Comparison
from scripts.reports.confounds import confounds
from scripts.reports.content import Report
from scripts.reports.option_values import method_of
from scripts.reports.rows import Row
from scripts.reports.runs import Run
from scripts.reports.speedup import speedups

#: Columns of results.csv that change when the same runs are repeated.
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
#: The newest columns, at the end: programs that read columns by number still find the others.
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
    """Return results.csv: one line for each run, from its summary.json and run.json."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run, role, row in _ordered(report):
        writer.writerow(_line(run, role, row))
    return stream.getvalue()


def as_json_lines(report: Report) -> str:
    """Return results.jsonl: every run with all its data, every row, and every comparison."""
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
        "pruning_method": method_of(run.options),
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
    """Return the results of a run without the best evaluation, which is not a result."""
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
