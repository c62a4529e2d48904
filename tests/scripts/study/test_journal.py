"""The journal of a matrix: parts of several writers, merged in the right order for each cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.reports.study import read_matrix
from scripts.study import journal
from scripts.study.folder import MatrixFolder
from scripts.study.journal import Journal, read_events
from scripts.study.records import Begin, Failed, Finished, Started, Stopped
from scripts.study.state import states
from tests.support.small_cells import cell_record, matrix_record


def writer(folder: Path, part: str | None = None) -> Journal:
    found = Journal(folder)
    found.open(part)
    return found


def test_a_single_journal_is_what_it_was(tmp_path: Path) -> None:
    one = writer(tmp_path)
    one.write(Begin(code="x"))
    one.write(Started(cell="a", pid=3))
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert all("order" not in json.loads(line) for line in lines)
    assert not (tmp_path / "journal").exists()
    assert [type(event) for event in one.read()] == [Begin, Started]


def test_who_has_read_a_line_writes_after_it_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = writer(tmp_path)
    old.write(Failed(cell="a", kind="crash"))
    first, second = writer(tmp_path, "one-1.0"), writer(tmp_path, "another-2.0")
    monkeypatch.setattr(journal.time, "time", lambda: 2e9)
    first.write(Started(cell="a"))
    first.write(Stopped(cell="a"))
    monkeypatch.setattr(journal.time, "time", lambda: 1e9)  # a machine whose clock is years behind
    second.read()
    second.write(Started(cell="a"))
    second.write(Finished(cell="a"))
    kinds = [type(event) for event in read_events(tmp_path)[0]]
    assert kinds == [Failed, Started, Stopped, Started, Finished]
    # A runner on one machine goes on after them, in the old file.
    old.close()
    old = writer(tmp_path)
    old.write(Failed(cell="a"))
    assert [type(event) for event in read_events(tmp_path)[0]] == [*kinds, Failed]


def test_a_line_cut_short_spoils_none_after_it(tmp_path: Path) -> None:
    writer(tmp_path, "h-1.0").write(Started(cell="a"))
    part = tmp_path / "journal" / "h-1.0.jsonl"
    with part.open("ab") as file:
        file.write(b'{"event": "star')
    writer(tmp_path, "h-1.0").write(Stopped(cell="a"))
    events, damaged = read_events(tmp_path)
    assert [type(event) for event in events] == [Started, Stopped]
    assert damaged == {"h-1.0.jsonl": 1}


def test_states_and_the_report_read_all_parts(tmp_path: Path) -> None:
    folder = MatrixFolder(tmp_path)
    folder.write_matrix(matrix_record(*(cell_record(name=name) for name in "abc")))
    for part, cell in (("h-1.0", "a"), ("i-2.0", "b")):
        one = MatrixFolder(tmp_path)
        one.join(part)
        one.write(Started(cell=cell, shared=True))
        one.write(Failed(cell=cell, kind="diverged", exit_code=5))
        one.close()
    known = states(folder, "abc", alive=())
    assert [known[name].status for name in "abc"] == ["failed", "failed", "left"]
    outcome = read_matrix(tmp_path, [])
    assert [failure.cell for failure in outcome.failures] == ["a", "b"]
    assert outcome.left == ("c",)
    assert outcome.shared
