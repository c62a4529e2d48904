"""Which run or matrix is watched when none is named, and which names are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from gpt2.run_dir.folder import RunFolder
from scripts.study.folder import MatrixFolder
from scripts.watching.choice import chosen
from scripts.watching.view import WatchedMatrix, WatchedRun
from tests.support.synthetic import write_run
from tests.support.watched import write_matrix


def aged(folder: Path, when: int) -> Path:
    for path in folder.rglob("*"):
        os.utime(path, (when, when))
    return folder


def newest(runs: Path) -> WatchedRun | WatchedMatrix:
    return chosen(None, None, runs)()


def test_while_nothing_runs_what_was_last_at_work_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to watch yet: 'make' trains a run"):
        chosen(None, None, tmp_path)
    run = aged(write_run(tmp_path / "a", 1.5), 1000)
    aged(write_run(tmp_path / "older", 1.5), 900)
    found = newest(tmp_path)
    assert isinstance(found, WatchedRun)
    assert found.path == run
    folder = write_matrix(tmp_path / "matrix-m", ("adamw-none",), seeds=5)
    folder.close()
    aged(folder.path, 800)
    assert newest(tmp_path).path == run
    os.utime(folder.run_dir("adamw-none-seed4") / "metrics.jsonl", (1100, 1100))
    found = newest(tmp_path)
    assert isinstance(found, WatchedMatrix)
    assert found.path == folder.path


def test_what_runs_comes_before_what_is_newer(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path / "matrix-m", ("adamw-none",), seeds=2)
    aged(folder.path, 800)
    write_run(tmp_path / "finished", 1.5)
    assert newest(tmp_path).path == folder.path
    folder.close()
    assert newest(tmp_path).path.name == "finished"


def test_the_page_moves_on_to_what_starts_and_stays_while_that_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "finished", 1.5)
    now = chosen(None, None, tmp_path)
    assert now().path.name == "finished"
    measuring = MatrixFolder(tmp_path / "matrix-compare-a-b-123456")
    measuring.open()  # short runs come first: it has no matrix.json yet
    watched = now()
    assert watched.path == measuring.path
    assert isinstance(watched, WatchedMatrix)
    assert watched.measuring() is not None
    run = RunFolder(write_run(tmp_path / "later", None, status="running"))
    assert now() is watched
    measuring.close()
    assert now().path.name == "later"
    run.close()


def test_what_is_named_must_be_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 1.5)
    assert chosen(run, None, tmp_path / "none")().path == run
    with pytest.raises(UserError, match=r"RUN=.*: not a run directory: it has no config"):
        chosen(tmp_path, None, tmp_path)
    with pytest.raises(UserError, match=r"MATRIX=.*: not a matrix: it has no matrix\.json"):
        chosen(None, run, tmp_path)
    measuring = MatrixFolder(tmp_path / "m")
    measuring.open()
    assert chosen(None, measuring.path, tmp_path)().path == measuring.path
    measuring.close()
