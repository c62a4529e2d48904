"""The run directory: lock, metrics, names, links."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.run_dir import folder as runs


def test_a_second_process_is_refused_and_named(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from gpt2.run_dir.folder import RunFolder\n"
            "f = RunFolder(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.read()",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on") as error:
            runs.RunFolder(tmp_path)
        assert error.value.code == Exit.CONFIG
    finally:
        holder.kill()
        holder.communicate()
    runs.RunFolder(tmp_path).close()  # a killed holder holds nothing


def test_no_permission_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere, so the refusal is made.
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match="cannot be written: Permission denied") as error:
        runs.RunFolder(tmp_path / "run")
    assert error.value.code == Exit.CONFIG


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        runs.RunFolder(tmp_path / "file" / "run")


def test_metrics_are_cut_after_a_step_and_at_a_torn_line(tmp_path: Path) -> None:
    folder = runs.RunFolder(tmp_path)
    for step in range(1, 6):
        folder.record({"step": step, "loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert [line["step"] for line in runs.read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    folder.close()
    folder = runs.RunFolder(tmp_path)
    folder.cut_metrics(3, evaluated=True)
    folder.record({"step": 4})
    assert [line["step"] for line in runs.read_metrics(tmp_path)] == [1, 2, 3, 4]
    folder.close()


def test_an_evaluation_that_will_be_made_again_is_dropped(tmp_path: Path) -> None:
    folder = runs.RunFolder(tmp_path)
    for line in ({"step": 2, "loss": 1.0}, {"step": 2, "val_loss": 1.0}):
        folder.record(line)
    folder.cut_metrics(2, evaluated=True)
    assert len(runs.read_metrics(tmp_path)) == 2
    folder.cut_metrics(2, evaluated=False)
    assert runs.read_metrics(tmp_path) == [{"step": 2, "loss": 1.0}]
    folder.close()


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    folder = runs.RunFolder(tmp_path)
    folder.record({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    folder.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"step": 1, "loss": None, "grad_norm": None}


def test_new_folders_never_collide(tmp_path: Path) -> None:
    seen = set()
    for _ in range(5):
        path = runs.new_folder(tmp_path, "gpt2-text-cpu")
        assert not path.exists()
        path.mkdir()
        seen.add(path)
    assert len(seen) == 5


def test_unfinished_runs_newest_first(tmp_path: Path) -> None:
    for age, name in enumerate(["newest", "middle", "oldest"]):
        (tmp_path / name / "checkpoints" / "step-00000001").mkdir(parents=True)
        (tmp_path / name / "config").write_text("")
        os.utime(tmp_path / name / "config", (1000 - age, 1000 - age))
    (tmp_path / "latest").symlink_to("newest")
    assert [path.name for path in runs.unfinished(tmp_path)] == ["newest", "middle", "oldest"]
    (tmp_path / "middle" / "summary.json").write_text("{}")
    (tmp_path / "oldest" / "checkpoints" / "step-00000001").rmdir()  # goes on from its start
    assert [path.name for path in runs.unfinished(tmp_path)] == ["newest", "oldest"]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run directory: it has no run\.json"):
        runs.read_json(tmp_path, "run.json")


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    runs.write_whole(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        runs.write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def finished_run(folder: Path, best: object) -> Path:
    """Write a run with checkpoints of steps 10, 20 and 30, and two folders that are none."""
    for name in ("step-00000010", "step-00000020", "step-00000030", "step-new", "other"):
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / "MANIFEST.json").write_text("{}")
    (folder / "summary.json").write_text(json.dumps({"val_loss": 1.0, "best": best}))
    return folder


@pytest.mark.parametrize(
    ("keep", "best", "steps"),
    [
        ("last", {"step": 10, "val_loss": 0.5}, [30]),
        ("best", {"step": 10, "val_loss": 0.5}, [10]),
        ("best", {"step": 15, "val_loss": 0.5}, [30]),
        ("best", None, [30]),
        ("none", None, []),
        ("all", None, [10, 20, 30]),
    ],
)
def test_checkpoints_are_pruned_but_those_to_keep(
    keep: str, best: object, steps: list[int], tmp_path: Path
) -> None:
    run = finished_run(tmp_path, best)
    runs.prune_checkpoints(run, keep)
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == {"step-new", "other", *(f"step-{step:08d}" for step in steps)}


def test_an_unfinished_run_and_one_with_damaged_results_keep_their_checkpoints(
    tmp_path: Path,
) -> None:
    run = finished_run(tmp_path, [1])
    with pytest.raises(UserError, match=r"summary\.json cannot be read: best is a list, not an"):
        runs.prune_checkpoints(run, "best")
    (run / "summary.json").unlink()
    runs.prune_checkpoints(run, "none")
    assert len(list((run / "checkpoints").iterdir())) == 5
