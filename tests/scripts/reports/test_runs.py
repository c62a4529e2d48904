"""Run directories as a report reads them: unfinished, half-written, damaged, of other versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.report import main
from scripts.reports.runs import read_run
from tests.support.reports import table
from tests.support.synthetic import write_matrix, write_run

pytestmark = pytest.mark.slow


def test_one_run_has_its_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5, method="state")
    assert main(["--runs", str(run), "--to", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "step 100: validation loss 1.5000, sparsity 50 %" in text


def test_a_run_without_results_is_listed_and_nothing_more(tmp_path: Path) -> None:
    out = write_matrix(tmp_path / "matrix", cells=2, seeds=5)
    (out / "cells" / "adamw-none-5" / "summary.json").unlink()
    lost = write_run(out / "cells" / "lion-none-1", None, 1, "lion")
    (lost / "run.json").unlink()
    events = [
        {"event": "failed", "cell": "lion-none-1", "kind": "diverged", "exit_code": 5,
         "tail": "error: diverged", "retry": False},
        {"event": "failed", "cell": "adamw-none-1", "kind": "memory", "exit_code": 6, "tail": ""},
        {"event": "finished", "cell": "adamw-none-1"},
    ]  # fmt: skip
    (out / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"event"')
    assert main(["--out", str(out)]) == 0
    text = (out / "report.html").read_text()
    assert "adamw-none-5" in text
    assert "not begun" in text
    assert "Failed: diverged, exit code 5" in text
    assert "Failed: memory" not in text
    assert "4 of 5" in text
    assert "journal.jsonl: 1 line(s) cut short" in text
    assert {line["role"] for line in table(out)} == {"reported", "unfinished"}


def test_a_half_written_line_takes_nothing_else_away(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5)
    whole = read_run(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "val_lo')
    found = read_run(run)
    assert found.evaluations == whole.evaluations
    assert found.losses == whole.losses
    assert found.problems == ("metrics.jsonl: a line cut short or damaged, not in the curves",)


def test_another_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "a", 1.5)
    (run / "config").write_text((run / "config").read_text() + 'CONFIG_OF_TOMORROW="1"\n')
    old = write_run(tmp_path / "runs" / "b", 1.6, 2)
    summary = json.loads((old / "summary.json").read_text())
    del summary["sparsity_reached"]
    (old / "summary.json").write_text(json.dumps(summary))
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    assert "config is of another version: OF_TOMORROW unknown here" in text
    assert "summary.json has no sparsity_reached" in text
    assert [line["status"] for line in table(tmp_path / "out")] == [
        "finished", "results of another version",
    ]  # fmt: skip


def test_results_without_the_newer_entries_are_still_results(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5)
    summary = json.loads((run / "summary.json").read_text())
    for name in ("optimizer_state_bytes", "dense_bytes", "sparse_bytes"):
        del summary[name]
    (run / "summary.json").write_text(json.dumps(summary))
    assert main(["--runs", str(run), "--to", str(tmp_path / "out")]) == 0
    (line,) = table(tmp_path / "out")
    assert (line["val_loss"], line["dense_bytes"]) == ("1.5", "")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"val_loss": null}'])
def test_damaged_results_are_none(content: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5)
    (run / "summary.json").write_text(content)
    assert not read_run(run).finished
    assert main(["--runs", str(run), "--to", str(tmp_path / "out")]) == 0
    assert "No results yet: " in (tmp_path / "out" / "report.md").read_text()
