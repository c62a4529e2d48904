"""Which weights a run starts from, and that they are known by their hash when it resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.files.json import read_record
from gpt2.run_dir import latest, resume
from gpt2.run_dir.records import RunRecord
from gpt2.session import session
from tests.run_dir.test_resume import train_killed
from tests.support import tiny

pytestmark = pytest.mark.slow

MORE = ("--max-steps", "4", "--init-from")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "start"
    assert tiny.train(data, run, "--max-steps", "2") == Exit.OK
    return run


def began(run: Path) -> Any:
    found = read_record(run / "run.json", RunRecord, "").init_from
    assert found is not None
    return found


@pytest.mark.parametrize("interval", ["0", "1"])  # without and with a checkpoint of its own
def test_weights_that_moved_are_the_same_weights(
    interval: str, data: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, run = tmp_path / "old", tmp_path / "new", tmp_path / "run"
    shutil.copytree(start, old)
    every = ("--checkpoint-interval", interval)
    train_killed(monkeypatch, 2, data, run, *MORE, str(old), *every)
    known = began(run)
    assert known.path == str(old)
    old.rename(new)
    other = tmp_path / "other"
    assert tiny.train(data, other, "--max-steps", "3") == Exit.OK
    with pytest.raises(UserError, match="not known as the weights that the run in") as caught:
        tiny.train(data, run, *MORE, str(other), *every)
    assert f"give --init-from {old} as before" in str(caught.value)
    assert tiny.train(data, run, *MORE, str(new), *every) == Exit.OK
    assert began(run).sha256 == known.sha256
    assert began(run).path == str(new)
    assert began(run).earlier_paths == (str(old),)
    assert f'CONFIG_INIT_FROM="{new}"' in (run / "config").read_text()


def test_a_run_of_before_keeps_its_path(
    data: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(start, tmp_path / "copy")
    train_killed(monkeypatch, 2, data, run, *MORE, str(start))
    record = json.loads((run / "run.json").read_text())
    del record["init_from"]
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="it has no hash of those in"):
        tiny.train(data, run, *MORE, str(tmp_path / "copy"))
    assert tiny.train(data, run, *MORE, str(start)) == Exit.OK


def test_the_latest_run_is_the_one_that_it_was(
    data: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run from runs/latest is runs/latest itself when it resumes."""
    runs = tmp_path / "runs"
    for module in (resume, session):
        monkeypatch.setattr(module, "RUNS", runs)
    shutil.copytree(start, runs / "first")
    (runs / latest.NAME).symlink_to("first")
    more = (*MORE, str(runs / latest.NAME))
    train_killed(monkeypatch, 2, data, runs / "second", *more)
    assert (runs / latest.NAME).resolve().name == "second"
    assert tiny.train(data, runs / "second", *more) == Exit.OK
    assert began(runs / "second").path == str(runs / "first")
