"""What may go of runs/ is listed first, and nothing that has results or could resume goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2.run_dir.folder import RunFolder
from scripts import prune_runs
from scripts.study.folder import MatrixFolder
from tests.scripts.test_list_runs import make_run


def with_steps(run: Path, *steps: int) -> Path:
    for step in steps:
        folder = run / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes(1000))
        (folder / "MANIFEST.json").write_text("{}")
    return run


def finish(run: Path, best: int) -> Path:
    results = {"steps": 9, "val_loss": 1.0, "best": {"step": best, "val_loss": 0.5}}
    (run / "summary.json").write_text(json.dumps(results))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path, "dead", "failed")
    (make_run(tmp_path, "notes", "failed") / "notes.txt").write_text("mine")
    with_steps(make_run(tmp_path, "unfinished", "preempted"), 2, 4)
    finish(with_steps(make_run(tmp_path, "done", "finished"), 3, 6, 8, 9), best=6)
    finish(make_run(tmp_path, "results", "finished"), best=6)
    (
        finish(with_steps(make_run(tmp_path, "hurt", "finished"), 1, 2), 2) / "summary.json"
    ).write_text("{")
    (tmp_path / "latest").symlink_to("dead")
    for name in ("matrix-compare", "matrix-mine", "matrix-trained"):
        empty = MatrixFolder(tmp_path / name)
        empty.open()
        empty.close()
    (tmp_path / "matrix-mine" / "notes.txt").write_text("mine")
    (tmp_path / "matrix-trained" / "cells" / "a-seed1").mkdir()
    (tmp_path / "matrix-trained" / "cells" / "a-seed1" / "metrics.jsonl").write_text("")
    return tmp_path


GOES = ["dead", "done/checkpoints/step-00000003", "done/checkpoints/step-00000008",
        "matrix-compare"]  # fmt: skip


def files(runs: Path) -> set[str]:
    return {str(path.relative_to(runs)) for path in runs.rglob("*") if path.is_file()}


def test_it_lists_first_and_removes_on_demand(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(runs)
    assert prune_runs.main(["--runs", str(runs)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-2] for line in lines if not line.startswith("kept")] == GOES
    assert [line for line in lines if line.startswith("kept: hurt, whose results")]
    assert last.endswith("in 4 folders: YES=1 removes them")
    assert files(runs) == before
    assert prune_runs.main(["--runs", str(runs), "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "removed 4 folders"
    gone = {name for name in before if name.startswith(tuple(f"{path}/" for path in GOES))}
    assert files(runs) - {f"{run}/.lock" for run in ("done", "dead")} == before - gone
    assert not (runs / "dead").exists()
    assert prune_runs.main(["--runs", str(runs)]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_a_run_under_way_stays(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = next(each for each in prune_runs.useless(runs) if each.path.name == "dead")
    folder = RunFolder(runs / "dead")
    try:
        assert not any(each.path.name == "dead" for each in prune_runs.useless(runs))
        assert not prune_runs.remove(found)  # it began after the list was made
        assert "dead is in use by process" in capsys.readouterr().out
    finally:
        folder.close()
    assert (runs / "dead" / "config").exists()
    matrix = MatrixFolder(runs / "matrix-compare")
    matrix.open()  # it measures
    assert not any(each.path == matrix.path for each in prune_runs.useless(runs))
    matrix.close()
