"""What is read of a run and a matrix: while they are written, damaged, and when they are gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from gpt2.run_dir.folder import RunFolder
from scripts.watching.followed import MOST, FollowedRun
from scripts.watching.view import WatchedMatrix, WatchedRun
from tests.support.synthetic import write_run
from tests.support.watched import STEPS, metrics_text, write_matrix

LABELS = ("adamw-none", "adamw-magnitude-0.5")


def test_a_long_run_is_thinned_to_means(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 5001):
            file.write(json.dumps({"step": step, "loss": 10.0 - step / 1000}) + "\n")
    run = FollowedRun(tmp_path)
    run.refresh()
    points = run.curves["loss"]
    assert MOST <= len(points) <= 2 * MOST
    assert all(loss == pytest.approx(10.0 - step / 1000) for step, loss in points)
    assert [step for step, _ in points] == sorted(step for step, _ in points)
    assert points[-1][0] > 4980


def test_a_matrix_at_work(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path, LABELS, seeds=4)
    view = WatchedMatrix(tmp_path).look()
    assert [view.count(s) for s in ("finished", "running", "failed", "left")] == [5, 2, 1, 0]
    assert view.runner.startswith("process ")
    cell = next(cell for cell in view.cells if cell.status == "running")
    assert (cell.step, cell.steps, cell.share) == (400, STEPS, pytest.approx(1 / 3))
    assert cell.left == pytest.approx(800 * 0.06, abs=5.0)
    assert (cell.memory, round(cell.tokens_per_second or 0, -2)) == (350_000_000, 13000)
    assert len(cell.curves["val_loss"]) == 4
    failed = next(cell for cell in view.cells if cell.status == "failed")
    assert failed.reason == "diverged: train.py: error: the loss is <NaN>"
    assert view.left is not None
    folder.close()
    stopped = WatchedMatrix(tmp_path).look()
    assert (stopped.runner, stopped.count("unfinished")) == ("", 2)


def test_a_cell_that_grows_finishes_and_is_run_anew_is_followed(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path, LABELS, seeds=4)
    watched = WatchedMatrix(tmp_path)
    name = next(cell.name for cell in watched.look().cells if cell.status == "running")
    run = folder.run_dir(name)

    def seen() -> tuple[str, int, float | None]:
        cell = next(cell for cell in watched.look().cells if cell.name == name)
        return cell.status, cell.step, cell.val_loss

    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 420, "loss": 1.9}\n{"step": 440, "lo')
    assert seen()[:2] == ("running", 420)
    (run / "summary.json").write_text('{"val_loss": 1.25}')
    assert seen() == ("finished", 420, 1.25)
    shutil.rmtree(run)
    assert seen() == ("running", 0, None)
    run.mkdir()
    (run / "metrics.jsonl").write_text(metrics_text(100, seed=1))
    assert seen()[:2] == ("running", 100)
    (run / "summary.json").write_text("{")  # damaged, or half of it
    assert seen() == ("finished", 100, None)
    folder.close()


def test_a_single_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", None, status="running", planned_steps=500)
    watched = WatchedRun(run)
    assert watched.look().status == "unfinished"  # nobody holds it: it was killed
    folder = RunFolder(run)
    folder.record({"step": 125, "loss": 2.0, "elapsed": 1.0, "tokens_per_second": 10.0})
    view = watched.look()
    assert (view.status, view.step, view.share, view.loss) == ("running", 125, 0.25, 2.0)
    folder.close()
    done = write_run(tmp_path / "done", 1.5, test_loss=1.6)
    view = WatchedRun(done).look()
    assert (view.status, view.val_loss, view.memory) == ("finished", 1.5, 200_000_000)
    assert "test loss 1.6000" in view.facts
    assert view.facts[:2] == ("adamw", "dense")
    pruned = write_run(tmp_path / "pruned", 1.5, optimizer="muon", method="magnitude")
    assert WatchedRun(pruned).look().facts[:2] == ("muon", "magnitude")
    assert WatchedRun(write_run(tmp_path / "bad", None)).look().status == "failed"
    for name in ("run.json", "config"):
        (done / name).write_text('{"planned_steps":')
    assert WatchedRun(done).look().val_loss == 1.5
    shutil.rmtree(done)
    with pytest.raises(UserError, match="done is gone"):
        WatchedRun(done).look()


def test_latest_shows_the_name_of_the_run_it_leads_to(tmp_path: Path) -> None:
    write_run(tmp_path / "20261128-adamw", 1.5)
    (tmp_path / "latest").symlink_to("20261128-adamw")
    watched = WatchedRun(tmp_path / "latest")
    assert (watched.name, watched.look().name) == ("20261128-adamw", "20261128-adamw")


def test_an_old_run_has_the_steps_of_its_config(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5, options={"MAX_STEPS": "400"})
    assert WatchedRun(run).look().steps == 400


def test_the_interval_of_the_log_is_that_of_the_config(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5, options={"LOG_INTERVAL": "100"})
    assert WatchedRun(run).look().log_interval == 100
    (run / "config").unlink()
    assert WatchedRun(run).look().log_interval is None
