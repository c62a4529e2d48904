"""runs/latest where it cannot be, is a folder, leads nowhere, or to a run without a checkpoint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gpt2 import evaluate, export, sample
from gpt2.config.errors import Exit, UserError
from gpt2.run_dir import resume
from gpt2.session import session
from scripts import report
from scripts.reports import output
from tests.files.test_link import no_links
from tests.support import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resume, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(session, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def use(path: Path) -> None:
    """Use a run as `make sample`, `make evaluate`, `make export` and `make report` do."""
    given = ["--run", str(path), "--device", "cpu"]
    assert sample.main([*given, "--tokens", "3", "--prompt", "to"]) == Exit.OK
    assert evaluate.main(given) == Exit.OK
    assert export.main(["--run", str(path), "--format", "dense", "--out", f"{path}-export"]) == 0
    shutil.rmtree(f"{path}-export")
    to = path.parent.parent / "report"
    assert report.main(["--runs", str(path), "--to", str(to)]) == Exit.OK


def test_without_links_the_newest_run_is_taken(
    data: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "symlink", no_links)
    more = ("--max-steps", "1")
    for age, name in ((100, "one"), (0, "two")):
        assert tiny.train(data, runs / name, *more) == Exit.OK
        err = capsys.readouterr().err
        assert err.count(f"{runs}/latest does not lead to this run (Operation not supported)") == 1
        made = (runs / name / "run.json").stat().st_mtime
        os.utime(runs / name / "run.json", (made - age, made - age))
    use(runs / "latest")
    assert capsys.readouterr().err.count(f"leads to no run: taking the newest, {runs}/two") == 4
    assert tiny.train(data, runs / "three", "--init-from", str(runs / "latest"), *more) == Exit.OK
    with pytest.raises(UserError, match=f"{runs}/three: this run is finished"):
        tiny.train(data, runs / "latest", *more)
    # Elsewhere it is a name like others: a new run.
    assert tiny.train(data, runs.parent / "else" / "latest", *more) == Exit.OK


def test_a_run_on_another_disk_is_in_the_report_once(data: Path, runs: Path) -> None:
    for folder in (runs / "one", runs.parent / "disk" / "two"):
        assert tiny.train(data, folder, "--max-steps", "1") == Exit.OK
    (runs / "linked").symlink_to(runs.parent / "disk" / "two")
    (runs / "again").symlink_to(runs / "one")
    found = output.run_folders([runs])
    assert [path.name for path in found] == ["one", "linked"]
    assert output.run_folders([runs, runs / "latest"]) == found


def test_a_link_that_leads_nowhere(
    data: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert tiny.train(data, runs / name, "--max-steps", "1") == Exit.OK
    shutil.rmtree(runs / "two")
    use(runs / "latest")
    assert f"taking the newest, {runs}/one" in capsys.readouterr().err
    shutil.rmtree(runs / "one")
    with pytest.raises(UserError, match="latest is not a run directory"):
        evaluate.main(["--run", str(runs / "latest")])


def test_a_folder_of_that_name_is_used_and_said(
    data: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.train(data, runs / "one", "--max-steps", "1") == Exit.OK
    (runs / "latest").unlink()
    shutil.copytree(runs / "one", runs / "latest")
    assert tiny.train(data, runs / "two", "--max-steps", "2") == Exit.OK
    assert f"{runs}/latest is used as it is" in capsys.readouterr().err
    evaluate.main(["--run", str(runs / "latest"), "--device", "cpu"])
    assert capsys.readouterr().out.startswith("step 1,")


def test_a_run_without_a_checkpoint_names_one_that_has_one(data: Path, runs: Path) -> None:
    assert tiny.train(data, runs / "one", "--max-steps", "1") == Exit.OK
    assert tiny.train(data, runs / "two", "--max-steps", "1") == Exit.OK
    shutil.rmtree(runs / "two" / "checkpoints")
    with pytest.raises(UserError) as caught:
        evaluate.main(["--run", str(runs / "latest")])
    said = str(caught.value)
    assert said.startswith(f"{runs}/two holds no checkpoint yet")
    other = said.partition("; ")[2].removesuffix(" has one")
    assert evaluate.main(["--run", other, "--device", "cpu"]) == Exit.OK
