"""The command line of the report: which runs it takes, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from scripts.report import main
from tests.support import tiny
from tests.support.reports import FILES, lines, table
from tests.support.synthetic import write_matrix, write_run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "{}/empty"], "holds no run"),
        (["--runs", "{}/absent"], "there is no such folder"),
        (["--runs", "{}/good", "{}/empty"], "holds no run"),
        (["--out", "{}/empty"], "is no matrix"),
    ],
)
def test_a_folder_without_runs_is_refused(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "good", 1.5)
    with pytest.raises(UserError, match=message) as caught:
        main([word.format(tmp_path) for word in arguments])
    assert caught.value.code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "good"]


def test_without_a_matrix_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.report.RUNS", tmp_path)
    with pytest.raises(UserError, match="make test-matrix") as caught:
        main([])
    assert caught.value.code == 2


def test_the_newest_matrix_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.report.RUNS", tmp_path)
    for name, age in (("one", 100), ("two", 200)):
        out = write_matrix(tmp_path / name, cells=1, seeds=1)
        os.utime(out / "matrix.json", (age, age))
    (tmp_path / "one" / "journal.jsonl").write_text("")  # the older one was at work last
    assert main([]) == 0
    assert (tmp_path / "one" / "report.html").exists()
    assert not (tmp_path / "two" / "report.html").exists()


def test_nothing_that_can_be_read_is_an_error_of_data(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5)
    (run / "config").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="no run among these can be read") as caught:
        main(["--runs", str(run), "--to", str(tmp_path / "out")])
    assert caught.value.code == 3
    (tmp_path / "matrix.json").write_text("{")
    (tmp_path / "cells").mkdir()
    write_run(tmp_path / "cells" / "a", 1.5)
    with pytest.raises(UserError, match=r"matrix\.json cannot be read") as caught:
        main(["--out", str(tmp_path)])
    assert caught.value.code == 3


def test_a_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = write_run(tmp_path / "run", 1.5), tmp_path / "out"
    assert main(["--runs", str(run), "--to", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == sorted(FILES)
    write_run(tmp_path / "other", 1.7, 2)
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        main(["--runs", str(run), str(tmp_path / "other"), "--to", str(out)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_make_prints_the_command_and_takes_runs_that_are_typed_alone(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    for words, environment, expected in (
        (["RUNS=a b"], {}, "scripts/report.py --runs$(quoted $RUNS)"),
        ([], {"RUNS": "a b"}, "scripts/report.py"),
    ):
        done = subprocess.run(
            ["make", "-n", f"PYTHON={sys.executable}", "report", *words],
            cwd=tiny.REPOSITORY, env={**clean, **environment}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert expected in done.stdout
        assert ("--runs" in done.stdout) == bool(words)


def test_real_runs_are_reported(tmp_path: Path) -> None:
    data = tiny.make_data(tmp_path / "data")
    for seed in ("1", "2"):
        for method in ("none", "magnitude"):
            more = ("--seed", seed, "--max-steps", "4", "--pruning-method", method)
            assert tiny.train(data, tmp_path / "runs" / f"{method}-{seed}", *more) == 0
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    found = {line["row"]: line["seeds"] for line in lines(tmp_path / "out", "row")}
    assert found == {"adamw dense": [1, 2], "adamw + magnitude": [1, 2]}
    (comparison,) = lines(tmp_path / "out", "comparison")
    assert comparison["outcome"] == "too few"
    for line in table(tmp_path / "out"):
        summary = json.loads((tmp_path / "runs" / line["run"] / "summary.json").read_text())
        assert float(line["val_loss"]) == summary["val_loss"]
        assert all(line[name] != "" for name in ("code", "sparse_bytes", "optimizer_state_bytes"))


@pytest.mark.parametrize("margin", ["0", "-0.005", "small", "nan", "inf"])
def test_a_margin_that_is_none_is_refused(margin: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, UserError)) as caught:
        main(["--equivalence", margin])
    said = str(caught.value) + capsys.readouterr().err
    assert f"{margin} is not a margin: give nats per token above 0" in said
