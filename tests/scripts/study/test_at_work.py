"""Which folder of a matrix is at work, which is the newest, and which may be removed."""

from __future__ import annotations

import os
from pathlib import Path

from scripts.study.at_work import discard, is_measuring, is_untrained, newest, who
from scripts.study.folder import MatrixFolder
from tests.support.small_cells import matrix_record


def matrix(path: Path, written: int) -> Path:
    """Write a matrix that nobody runs, written at `written` in seconds since 1970."""
    folder = MatrixFolder(path)
    folder.open()
    folder.write_matrix(matrix_record())
    folder.close()
    for file in path.rglob("*"):
        os.utime(file, (written, written))
    return path


def test_a_locked_folder_comes_before_newer_ones(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    old, new = matrix(tmp_path / "old", 1000), matrix(tmp_path / "new", 2000)
    assert newest(tmp_path) == new
    measuring = MatrixFolder(tmp_path / "measuring")
    measuring.open()
    assert newest(tmp_path) == measuring.path
    assert is_measuring(measuring.path)
    measuring.close()
    assert newest(tmp_path) == new
    running = MatrixFolder(old)
    running.open()
    os.utime(old / ".lock", (1000, 1000))
    assert newest(tmp_path) == old
    assert who(old) == f"process {os.getpid()} on {os.uname().nodename}"
    assert not is_measuring(old)
    running.close()
    assert who(old) == ""


def test_only_a_folder_without_runs_is_removed(tmp_path: Path) -> None:
    empty = matrix(tmp_path / "empty", 1000)
    assert is_untrained(empty)
    held = MatrixFolder(empty)
    held.open()
    discard(empty)
    assert empty.is_dir()
    held.close()
    discard(empty)
    assert not empty.exists()
    discard(empty)  # it is gone
    begun, other = matrix(tmp_path / "begun", 1000), matrix(tmp_path / "other", 1000)
    (begun / "cells" / "a-seed1").mkdir()
    (other / "notes.txt").write_text("mine")
    for path in (begun, other, tmp_path):
        assert not is_untrained(path)
        discard(path)
        assert path.is_dir()
