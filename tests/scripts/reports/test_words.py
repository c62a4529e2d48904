"""Remarks on the runs of a report: shared machines, skipped steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.report import main
from scripts.reports.words import overlapping
from tests.support.reports import runs_of, table
from tests.support.synthetic import write_matrix, write_run

pytestmark = pytest.mark.slow


def test_shared_runs_have_no_comparable_speed(tmp_path: Path) -> None:
    out = write_matrix(tmp_path / "matrix", cells=1, seeds=2)
    assert main(["--out", str(out)]) == 0
    assert "shared the machine" not in (out / "report.html").read_text()
    event = {"event": "started", "cell": "adamw-none-1", "time": "t", "shared": True}
    (out / "journal.jsonl").write_text(json.dumps(event) + "\n")
    assert main(["--out", str(out)]) == 0
    assert "shared the machine" in (out / "report.html").read_text()


def test_runs_that_overlap_on_a_cpu_shared_it(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1.5, 1, device="cpu")
    other = write_run(tmp_path / "b", 1.5, 2, device="cpu")
    assert not overlapping(runs_of(tmp_path))
    record = json.loads((other / "run.json").read_text())
    record["start"] = "2026-11-24T10:01:29+00:00"  # a second before the other ends
    (other / "run.json").write_text(json.dumps(record))
    assert overlapping(runs_of(tmp_path))


def test_steps_that_went_wrong_are_told(tmp_path: Path) -> None:
    for seed, spiked in ((1, 0), (2, 3), (3, 1)):
        write_run(tmp_path / "runs" / str(seed), 1.5, seed, spiked_steps=spiked)
    write_run(tmp_path / "runs" / "4", 1.5, 1, "adamwspam", skipped_steps=1, rollbacks=2)
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert "adamw dense: 4 steps skipped as spikes, in 2 of 3 runs." in text
        assert "adamwspam dense: 1 step skipped for NaN or Inf" in text
        assert "adamwspam dense: 2 rollbacks after spikes, in 1 of 1 runs." in text
        assert text.count("skipped as spikes") == 1
    assert {line["rollbacks"] for line in table(tmp_path / "out")} == {"0", "2"}
