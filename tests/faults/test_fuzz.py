"""Damaged files and random words into every reader and every program; more of it: make torture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import fuzzing

#: Fixed, so that what is found once is found again.
SEED = 1


@pytest.mark.long
def test_damaged_files_are_errors_that_are_explained(tmp_path: Path) -> None:
    """Rows 4 to 6, 26, 27 and 39 at places that nobody chose, and every other file we read."""
    (tmp_path / "made").mkdir()
    found = [
        str(finding)
        for target in fuzzing.targets(tmp_path / "made")
        for finding in fuzzing.fuzz(target, SEED, 2, tmp_path)
    ]
    assert found == []


@pytest.mark.slow
def test_random_configs_and_flags_are_errors_that_are_explained(tmp_path: Path) -> None:
    """Row 36 with what nobody chose: every tool of .config, every program's flags."""
    found = [*fuzzing.fuzz_configs(SEED, 6, tmp_path), *fuzzing.fuzz_flags(SEED, 20, tmp_path)]
    assert list(map(str, found)) == []


def test_a_reader_that_lets_something_out_is_seen(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a").write_text("text")

    def read(folder: Path) -> None:
        raise KeyError((folder / "a").read_text())

    target = fuzzing.Target("a", tmp_path / "made", ("a",), fuzzing.damaged, read)
    found = fuzzing.fuzz(target, SEED, 2, tmp_path)
    assert found
    assert all("KeyError" in finding.error for finding in found)
