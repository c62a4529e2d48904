"""The report of one run: its result or how far it is, its curves, its settings, its sample."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gpt2.files.lock import lock_folder
from scripts.report import main
from scripts.reports.pictures.single import run_pictures
from scripts.reports.runs import read_run
from scripts.reports.single_run import facts, losses_grid, run_headline, settings_grid
from tests.support.synthetic import write_run


def whole_run(folder: Path) -> Path:
    """A pruned run with all that a run of today leaves."""
    tested = {"test_loss": 1.25, "test_perplexity": 3.49, "val_test_loss": 1.375}
    run = write_run(folder, 1.5, 3, method="state", **tested)
    summary = json.loads((run / "summary.json").read_text()) | tested
    (run / "summary.json").write_text(json.dumps(summary))
    lines = [
        {"step": step, "tokens": 64 * step, "elapsed": 30.0 * step, "loss": 4 - step / 50,
         "learning_rate": 1e-3 * step, "grad_norm": 2.0, "tokens_per_second": 1234.5,
         "sparsity": step / 200}
        for step in range(10, 101, 10)
    ]  # fmt: skip
    lines.append({"step": 100, "tokens": 6400, "elapsed": 3000.0, "val_loss": 1.5, "sparsity": 0.5})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "sample.txt").write_text("ROMEO:\n<b>&")
    return run


def test_the_result_is_said_first(tmp_path: Path) -> None:
    run = read_run(whole_run(tmp_path / "run"))
    assert run_headline(run) == (
        "Final test loss 1.2500, perplexity 3.490, after 100 steps at 50 % sparsity."
    )
    grid = losses_grid(run)
    assert grid is not None
    assert [line[:2] for line in grid.lines] == [
        ("test", "1.2500"), ("validation", "1.5000"), ("validation + test", "1.3750"),
    ]  # fmt: skip
    told = dict(facts(run))
    assert told["parameters"] == "1,000"
    assert told["sparsity"] == "50 % of the prunable weights, 45 % of the whole model (state)"
    assert told["best validation loss"] == "0.1235, at step 50"


def test_settings_are_of_the_optimizer_and_the_pruning_alone(tmp_path: Path) -> None:
    shown = dict(settings_grid(read_run(whole_run(tmp_path / "run"))).lines)
    assert shown["--optimizer"] == "adamw"
    assert shown["--adamw-beta2"] == "0.95"
    assert shown["--target-sparsity"] == "0.5"
    assert shown["sequences per step"] == "8"
    assert "--data-dir" not in shown
    dense = dict(settings_grid(read_run(write_run(tmp_path / "dense", 1.5))).lines)
    assert "--target-sparsity" not in dense


def test_the_lock_says_whether_a_run_goes_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", None, status="running", exit_code=None)
    assert read_run(run).status == "running, or killed"  # as copied, without its lock
    with lock_folder(run, "a test", "none"):
        assert re.fullmatch(r"running \(process \d+ on .*\)", read_run(run).status)
    assert read_run(run).status == "killed"
    said = run_headline(read_run(run))
    assert said == (
        "No results yet: killed after step 100. The last validation loss is 2.0000, at step 100."
    )


@pytest.mark.slow
def test_few_logged_steps_are_points_and_say_how_often_they_are_logged(tmp_path: Path) -> None:
    run = read_run(whole_run(tmp_path / "run"))
    few = run.points[:2]
    run = replace(run, points=few, options={**run.options, "LOG_INTERVAL": "100"})
    assert run_pictures(run)
    for picture in run_pictures(run):
        assert "Logged every 100 steps (--log-interval)" in picture.caption
        assert "stroke-dasharray" in picture.svg
    many = replace(run, points=few * 6)
    assert all("Logged every" not in picture.caption for picture in run_pictures(many))


@pytest.mark.slow
def test_one_run_is_reported_where_it_lies(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    assert main(["--runs", str(run)]) == 0
    page = (run / "report.html").read_text()
    for shown in ("Final test loss 1.2500", "--adamw-beta2", "ROMEO:\n&lt;b&gt;&amp;",
                  "step 100: validation loss 1.5000, sparsity 50 %", "step 50: 0.05",
                  "step 100: 50 %", "step 20: 1,234"):  # fmt: skip
        assert shown in page, shown
    for axis in ("steps", "tokens", "time"):
        assert f'id="run-loss-{axis}-title"' in page
        assert f'id="run-more-{axis}-title"' in page
    assert "training time (min)" in page
    assert "Verdict" not in page
    text = (run / "report.md").read_text()
    assert "Final test loss 1.2500" in text
    assert "ROMEO:" in text
    assert read_run(run).finished
