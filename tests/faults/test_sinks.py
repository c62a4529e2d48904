"""Rows 22, 24, 31, 37 and 38: memory that ends, locks, places to write that go away, odd clocks."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.config.text import rough_duration
from gpt2.data.prepare import store as data_store
from gpt2.files.atomic import new_folder
from gpt2.files.lock import holder
from gpt2.machine import device
from gpt2.machine.host_memory import Host
from gpt2.run_dir import folder as runs
from gpt2.training import loop
from gpt2.training.recorder import RunRecorder
from scripts.study.folder import MatrixFolder
from tests.support import tiny

STEPS = ("--max-steps", "6", "--dropout", "0.1", "--checkpoint-interval", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.train(data, run, *STEPS) == Exit.OK
    return run


def after(patch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Let something happen when `step` has been computed."""
    original: Callable[..., bool] = RunRecorder.after_step

    def after_step(self: RunRecorder, done: object) -> bool:
        if self.progress.step == step:
            act()
        return original(self, done)

    patch.setattr(RunRecorder, "after_step", after_step)


def broken_pipe() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


def full_disk() -> TextIO:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    return Path("/dev/full").open("w", encoding="utf-8")


@pytest.mark.parametrize("sink", [broken_pipe, full_disk])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_console_that_takes_no_more_costs_one_line(
    name: str, sink: Callable[[], TextIO], data: Path, whole: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    stream = sink()

    def lose(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        # Something for stderr, too: lines of metrics are lost from the third step on.
        after(patch, 2, lambda: patch.setattr(sys, name, stream))
        if name == "stderr":
            after(patch, 3, lambda: patch.setattr(runs.RunFolder, "record", lose))
        assert tiny.train(data, run, *STEPS) == Exit.OK
        stream.flush()  # what it could not take is gone: the end of the process will not fail
    stream.close()
    log = (run / "log.txt").read_text()
    assert log.count("warning: the console takes no more") == 1
    assert "step 6/6" in log
    assert json.loads((run / "run.json").read_text())["exit_code"] == 0
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(whole)


def test_streams_closed_from_the_start_take_no_file_s_place() -> None:
    script = (
        "import os, sys; from gpt2.config.entry import run_entry\n"
        "def main():\n"
        "    with open('/dev/null') as file: number = file.fileno()\n"
        "    print('to nobody'); print('to nobody', file=sys.stderr)\n"
        "    for n in range(3): os.fstat(n)\n"
        "    return 40 + number\n"
        "run_entry('entry.py', main)"
    )
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, script],
        cwd=tiny.REPOSITORY, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 43


@pytest.mark.parametrize("again", [False, True], ids=["removed", "replaced"])
def test_a_run_directory_that_vanishes(
    again: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"

    def remove() -> None:
        shutil.rmtree(run)
        if again:
            run.mkdir()
            (run / ".lock").touch()

    after(monkeypatch, 3, remove)
    with pytest.raises(UserError, match="checkpoint of step 6 was not written: ") as error:
        tiny.train(data, run, *STEPS)
    assert error.value.code == Exit.CHECKPOINT
    assert f"the run directory is gone ({run}); restore it" in str(error.value)
    warned = capsys.readouterr().err
    assert warned.count("warning: checkpoint of step 4 was not written") == 1
    assert warned.count("warning:") == 1
    # No folder comes of it that looks like a run and is none.
    assert (sorted(p.name for p in run.iterdir()) if again else run.exists()) == (
        [".lock"] if again else False
    )


def test_a_run_directory_that_comes_back(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was moved away by mistake, and moved back before the end."""
    run, away = tmp_path / "run", tmp_path / "away"
    original: Callable[..., bool] = RunRecorder.after_step

    def after_step(self: RunRecorder, done: object) -> bool:
        if self.progress.step == 3:
            run.rename(away)
        if self.progress.step == 5:
            away.rename(run)
        return original(self, done)

    monkeypatch.setattr(RunRecorder, "after_step", after_step)
    assert tiny.train(data, run, *STEPS) == Exit.OK
    assert store.steps(run / "checkpoints") == [2, 6]
    assert tiny.metrics(run) == tiny.metrics(whole)
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(whole)


@pytest.mark.parametrize(
    "torn",
    [b'{"step": 3, "lo', b"\xff\xfe\x00", b"[" * 100_000, b"3", b"null", b'{"loss": 1.0}',
     b'{"step": "x"}', b""],
)  # fmt: skip
@pytest.mark.parametrize("place", [1, 4])
def test_a_line_of_metrics_that_is_none_costs_no_other(
    torn: bytes, place: int, tmp_path: Path
) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0}).encode() for step in range(1, 5)]
    lines.insert(place, torn)
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert [line["step"] for line in runs.read_metrics(tmp_path)] == [1, 2, 3, 4]
    folder = runs.RunFolder(tmp_path)
    folder.cut_metrics(3, evaluated=True)
    folder.record({"step": 4, "loss": 2.0})
    folder.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [1, 2, 3, 4]


@pytest.mark.parametrize("direction", [0.0, -3600.0], ids=["stands", "goes backwards"])
def test_clocks_that_stand_or_go_backwards(
    direction: float, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ticks = itertools.count()

    def clock() -> float:
        return 1e6 + direction * next(ticks)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(time, "time", clock)
    run = tmp_path / "run"
    assert tiny.train(data, run, *STEPS, "--eval-interval", "2") == Exit.OK
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["elapsed"] for line in lines] == [0.0] * len(lines)
    speeds = [line["tokens_per_second"] for line in lines if "loss" in line]
    assert all(0.0 < speed < math.inf for speed in speeds)
    said = capsys.readouterr().out
    assert said.count("0 s left") == 1
    model = "model.safetensors"
    assert tiny.checkpoint_bytes(run)[model] == tiny.checkpoint_bytes(whole)[model]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["seconds"] == 0.0
    assert 0.0 < summary["tokens_per_second"] < math.inf


def test_a_clock_that_jumps_in_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = itertools.chain([0.0], itertools.repeat(1e6))
    monkeypatch.setattr(
        device, "time", SimpleNamespace(perf_counter=lambda: next(moments)), raising=True
    )
    assert 0.0 <= device.predict_cpu_seconds(1e9) < math.inf


@pytest.mark.parametrize("clock", [lambda n: 5.0, lambda n: 1e6 - 3600.0 * n])
def test_a_short_run_of_the_matrix_under_odd_clocks(
    clock: Callable[[int], float], tmp_path: Path
) -> None:
    from gpt2.config.records import to_json
    from scripts.study import forecast, views
    from scripts.study.state import CellState
    from tests.support.small_cells import cell_record, matrix_record

    run = tmp_path / "cells" / "a"
    run.mkdir(parents=True)
    lines = [{"step": n, "loss": 1.0, "elapsed": 0.0, "time": clock(n)} for n in range(1, 4)]
    lines.append({"step": 3, "val_loss": 1.0, "elapsed": 0.0, "time": clock(4)})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {"seconds": 0.0, "peak_host_bytes": 1, "peak_device_bytes": 0}
    (run / "summary.json").write_text(json.dumps(result))
    measured = forecast._measured(run, wall=-1.0)
    times = ("step_seconds", "evaluation_seconds", "other_seconds")
    assert all(getattr(measured, name) == 0.0 for name in times)
    folder = MatrixFolder(tmp_path)
    (tmp_path / "probes.json").write_text(json.dumps({"kind": to_json(measured)}))
    record = matrix_record(cell_record(kind="kind", steps=2, eval_interval=1))
    left = views.remaining(folder, record, {"a": CellState(status="running")})
    assert left == 0.0  # also where more steps are logged than there are
    assert rough_duration(left) == "0 s"


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be a file system that locks nothing."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_a_file_system_that_locks_nothing(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="locks no files") as error:
        tiny.train(data, tmp_path / "run", *STEPS)
    assert error.value.code == Exit.CONFIG
    assert str(error.value).startswith(f"--run-dir {tmp_path / 'run'}: ")
    assert not (tmp_path / "run" / "config").exists()
    with pytest.raises(UserError, match="choose a --data-dir on a local disk") as error:
        tiny.make_data(tmp_path / "data")
    assert error.value.code == Exit.DATA
    with pytest.raises(UserError, match="choose an --out on a local disk"):
        MatrixFolder(tmp_path / "matrix").open()
    assert holder(tmp_path / "matrix") == ""  # nobody can tell
    with pytest.raises(UserError, match="locks no files"), data_store.locked(tmp_path):
        pass


def test_two_exports_into_one_folder(tmp_path: Path) -> None:
    """The first to be done has it; neither touches what the other is writing."""
    final = tmp_path / "export"
    with subprocess.Popen(["sleep", "60"]) as other:  # at work on the same folder
        theirs = tmp_path / f".tmp-export-{other.pid}"
        theirs.mkdir()
        (theirs / "model.safetensors").write_bytes(b"theirs")
        with new_folder(final) as ours:
            (ours / "model.safetensors").write_bytes(b"ours")
        assert (theirs / "model.safetensors").read_bytes() == b"theirs"
        with pytest.raises(OSError, match="not empty"):
            theirs.rename(final)  # as it would, when it is done
        other.kill()
    with pytest.raises(OSError, match="not empty"), new_folder(final) as late:
        (late / "model.safetensors").write_bytes(b"late")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]  # nor is anything left
    assert (final / "model.safetensors").read_bytes() == b"ours"


#: train.py, which after step 3 may have 64 MB more and takes 16 MB in every step.
HUNGRY = """
import resource, sys
import torch
from gpt2 import train
from gpt2.config.entry import run_entry
from gpt2.training.recorder import RunRecorder

original, taken = RunRecorder.after_step, []

def after_step(self, done):
    if self.progress.step == 3:
        held = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
        most = int(held.split()[1]) * 1024 + 64 * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    if self.progress.step > 3:
        taken.append(torch.ones(4 * 2**20))
    return original(self, done)

RunRecorder.after_step = after_step
run_entry("train.py", lambda: train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_host_without_memory_is_said(data: Path, tmp_path: Path) -> None:
    """Row 22: a real limit on what the process may take."""
    run, more = tmp_path / "run", ("--max-steps", "40", "--checkpoint-interval", "2")
    done = subprocess.run(
        [sys.executable, "-c", HUNGRY, *tiny.flags(data, run, *more)],
        cwd=tiny.REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.MEMORY, done.stderr
    assert done.stderr.startswith("train.py: error: out of memory with --batch-size 4 after step ")
    assert "--batch-size 2 --gradient-accumulation 2 is the same run in less memory" in done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", Exit.MEMORY)
    last = store.steps(run / "checkpoints")[-1]
    assert last >= 4
    store.load(store.folder_of(run / "checkpoints", last))
    assert not list((run / "checkpoints").glob(".tmp-*"))
    assert tiny.train(data, run, *more) == Exit.OK
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_run_holds_no_more_than_a_short_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 24: steps, log lines, evaluations and checkpoints leave nothing behind."""
    host, held = Host(), dict[int, int]()
    original: Callable[..., bool] = RunRecorder.after_step

    def after_step(self: RunRecorder, done: object) -> bool:
        going = original(self, done)
        held[self.progress.step] = host.held()
        return going

    monkeypatch.setattr(RunRecorder, "after_step", after_step)
    more = ("--max-steps", "300", "--eval-interval", "30", "--checkpoint-interval", "45")
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    settled = max(held[step] for step in range(50, 101))  # an evaluation and two checkpoints
    assert max(held[step] for step in range(101, 301)) < settled + 5 * 2**20
