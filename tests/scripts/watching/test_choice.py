"""Which run or matrix is watched when none is named, and what is no run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from scripts.watching.choice import chosen
from scripts.watching.view import WatchedMatrix, WatchedRun
from tests.support.synthetic import write_run
from tests.support.watched import write_matrix


def aged(folder: Path, when: int) -> Path:
    for path in folder.rglob("*"):
        os.utime(path, (when, when))
    return folder


def test_what_was_last_at_work_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to watch yet: 'make' trains a run"):
        chosen(None, None, tmp_path)
    run = aged(write_run(tmp_path / "a", 1.5), 1000)
    aged(write_run(tmp_path / "older", 1.5), 900)
    found = chosen(None, None, tmp_path)
    assert isinstance(found, WatchedRun)
    assert found.path == run
    folder = write_matrix(tmp_path / "matrix-m", ("adamw-none",), seeds=5)
    folder.close()
    aged(folder.path, 800)
    assert chosen(None, None, tmp_path).path == run
    os.utime(folder.run_dir("adamw-none-seed4") / "metrics.jsonl", (1100, 1100))
    found = chosen(None, None, tmp_path)
    assert isinstance(found, WatchedMatrix)
    assert found.path == folder.path


def test_what_is_named_must_be_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 1.5)
    assert chosen(run, None, tmp_path / "none").path == run
    with pytest.raises(UserError, match=r"RUN=.*: is no run directory: it has no config"):
        chosen(tmp_path, None, tmp_path)
    with pytest.raises(UserError, match=r"MATRIX=.*: is no matrix: it has no matrix\.json"):
        chosen(None, run, tmp_path)
