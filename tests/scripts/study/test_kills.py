"""kill -9 of the runner and of cells at random instants changes no result, and repeats none."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import REPOSITORY
from tests.support.runner_kills import events, one_runner

MATRIX = str(REPOSITORY / "tests" / "support" / "fake_matrix.py")
CONFIG = """
CONFIG_DATASET_TEXT=y
CONFIG_DATA_DIR="{data}"
CONFIG_MAX_STEPS=30
CONFIG_DEVICE_CPU=y
CONFIG_MATRIX_SEEDS="1 2"
CONFIG_MATRIX_SPARSITIES="0.5"
CONFIG_MATRIX_CONTROLS=n
"""
MEASURED = ("seconds", "elapsed", "time")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    meta = {"splits": {"train": {"tokens": 1000}}, "tokenizer": {"vocab_size": 9}}
    (folder / "text").mkdir()
    (folder / "text" / "meta.json").write_text(json.dumps(meta))
    (folder / "config").write_text(CONFIG.format(data=folder))
    return folder / "config"


def command(config: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, MATRIX, "--config", str(config), "--out", str(out), *more]


def run(config: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config, out, *more), capture_output=True, text=True, timeout=120, check=False
    )


def contents(out: Path) -> dict[str, Any]:
    """Everything a matrix leaves, without what was measured and what a kill left half-written."""
    found: dict[str, Any] = {}
    for path in sorted((out / "cells").rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix == ".json" and "checkpoints" not in path.parts:
            value = json.loads(path.read_text())
            found[name] = {k: v for k, v in value.items() if k not in MEASURED}
        elif path.suffix == ".jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            found[name] = [{k: v for k, v in x.items() if k not in MEASURED} for x in lines]
        elif path.is_file() and path.name[0] != "." and path.name not in ("log.txt", "command"):
            found[name] = path.read_bytes()
    return found


@pytest.mark.long
@pytest.mark.parametrize(("jobs", "most"), [("1", 12), ("2", 6)])
def test_kills_at_random_instants_change_nothing(
    jobs: str, most: int, config: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    # Threads are given, since those that are chosen go by the number of jobs.
    flags = ("--jobs", jobs, "--", "--num-threads", "1")
    assert run(config, whole, *flags).returncode == 0
    rng = random.Random(int(jobs))
    kills: Counter[str] = Counter()
    code: int | None = None
    while code != 0:
        code = one_runner(rng, command(config, out, *flags), out, kills, most)
        assert code in (0, 1, 75, -9, -15), (tmp_path / "said").read_text()
        if kills.total() > 4 and (journal := out / "journal.jsonl").exists():
            with journal.open("ab") as file:  # as a power cut leaves it
                file.write(b'{"event": "start')
    assert kills["runner"] + kills["both"] >= 2, kills
    assert contents(out) == contents(whole)
    journal = events(out)
    finished: set[str] = set()
    for line in journal:
        assert line["event"] != "started" or line["cell"] not in finished, "a cell was repeated"
        if line["event"] == "finished":
            assert line["cell"] not in finished
            finished.add(line["cell"])
    assert len(finished) == 8
    assert any(line["event"] == "started" and line["going_on"] for line in journal)
    assert run(config, out, *flags).returncode == 0  # nothing is left to do
    assert [line["event"] for line in events(out)][len(journal) :] == ["begin", "end"]


@pytest.mark.slow
def test_a_second_runner_is_refused_with_the_first_ones_number(
    config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = subprocess.Popen(command(config, out), stdout=subprocess.DEVNULL)
    try:
        while not (out / "journal.jsonl").exists():
            time.sleep(0.02)
        second = run(config, out)
        assert second.returncode == 2
        assert f"in use by process {first.pid} on " in second.stderr
        shown = run(config, out, "--status")
        assert f"run by process {first.pid} on " in shown.stdout
    finally:
        first.kill()
        first.wait()
    assert run(config, out).returncode == 0


@pytest.mark.slow
def test_a_signal_saves_and_says_how_to_go_on(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = subprocess.Popen(command(config, out), stdout=subprocess.PIPE, text=True)
    while not list(out.glob("cells/*/metrics.jsonl")):
        time.sleep(0.02)
    runner.send_signal(signal.SIGINT)
    said, _ = runner.communicate(timeout=60)
    assert runner.returncode == 75
    assert "stopped by SIGINT; saved. The same command resumes" in said
    assert list(out.glob("cells/*/checkpoints/step-*"))
    assert [line["event"] for line in events(out)][-2:] == ["stopped", "end"]
    shown = run(config, out, "--status").stdout
    assert "1 unfinished" in shown
    assert "not running" in shown
    assert run(config, out).returncode == 0


@pytest.mark.slow
def test_what_is_left_of_a_killed_runner_saves_and_ends(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = subprocess.Popen(command(config, out), stdout=subprocess.DEVNULL)
    while not list(out.glob("cells/*/metrics.jsonl")):
        time.sleep(0.02)
    (pid,) = {line["pid"] for line in events(out) if line["event"] == "started"}
    runner.kill()
    runner.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{pid}").exists()
    (cell,) = (out / "cells").iterdir()
    assert not (cell / "summary.json").exists()
    assert list(cell.glob("checkpoints/step-*/MANIFEST.json"))  # it was told to, and saved
