"""Runs under the guard of host memory: saved and resumed to the same bits, or ended at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.machine import host_memory
from gpt2.training.recorder import RunRecorder
from tests.machine.test_host_memory import GIB, fake
from tests.support import tiny, warm

STEPS = ("--max-steps", "6", "--dropout", "0.1", "--checkpoint-interval", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A faked machine with enough memory, on which the guard looks all the time."""
    monkeypatch.setattr(host_memory, "ROOT", fake(tmp_path / "root"))
    monkeypatch.setattr(host_memory, "INTERVAL", 0.001)
    return tmp_path / "root"


def change(root: Path, available: int) -> None:
    """Let the faked machine have so much left, in one moment."""
    other = fake(root.with_name("other"), available=available)
    os.replace(other / "proc/meminfo", root / "proc/meminfo")


def record(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "run.json").read_text())
    return found


@pytest.mark.slow
def test_low_memory_saves_and_the_resumed_run_is_the_same_to_the_bit(
    data: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert tiny.train(data, tmp_path / "whole", *STEPS) == Exit.OK
    original: Callable[..., bool] = RunRecorder.after_step

    def after_step(self: RunRecorder, done: object) -> bool:
        if self.progress.step == 3:
            change(root, available=GIB)
            end = time.monotonic() + 60.0
            while not self._stop and time.monotonic() < end:
                time.sleep(0.001)
        return original(self, done)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "after_step", after_step)
        assert tiny.train(data, run, *STEPS) == Exit.PREEMPTED
    low = "the memory guard (1.07 GB of 25.77 GB are left on this machine)"
    told = capsys.readouterr().out
    assert f"stopped ({low}) after step 3, checkpoint saved\nresume with: the same command" in told
    assert "--batch-size 2 --gradient-accumulation 2 is the same run in less memory" in told
    assert record(run)["status"] == "preempted"
    assert record(run)["stopped_by"] == low
    change(root, available=12 * GIB)
    assert tiny.train(data, run, *STEPS) == Exit.OK
    assert tiny.metrics(run) == tiny.metrics(tmp_path / "whole")
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(tmp_path / "whole")


def test_a_run_that_starts_low_is_refused_before_there_is_a_folder(
    data: Path, root: Path, tmp_path: Path
) -> None:
    change(root, available=GIB)
    with pytest.raises(UserError, match="host memory is low before the start") as error:
        tiny.train(data, tmp_path / "run", *STEPS)
    assert error.value.code == Exit.MEMORY
    assert not (tmp_path / "run").exists()


def test_training_offers_itself_to_the_kernel(data: Path, root: Path, tmp_path: Path) -> None:
    assert tiny.train(data, tmp_path / "run", "--max-steps", "1") == Exit.OK
    assert int((root / "proc/self/oom_score_adj").read_text()) == 500


def test_a_system_that_cannot_be_watched(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host_memory, "ROOT", tmp_path / "nothing")
    assert tiny.train(data, tmp_path / "run", "--max-steps", "1") == Exit.OK
    assert capsys.readouterr().out.count("host memory is not watched") == 1
    with pytest.raises(UserError, match="cannot be watched on this system"):
        tiny.train(data, tmp_path / "other", "--max-steps", "1", "--host-memory-limit", "6G")


#: train.py in a process that after two steps holds so many megabytes, or whose machine is all but
#: out of memory then.
CHILD = """
import os, sys
from pathlib import Path
from gpt2 import train
from gpt2.session import session
from gpt2.config.entry import run_entry
from gpt2.machine import host_memory as host
from gpt2.training.recorder import RunRecorder

kind, root = sys.argv[1:3]
host.INTERVAL = 0.01
original, ballast = RunRecorder.after_step, b""
if kind == "machine":
    host.ROOT = Path(root)

def after_step(self, done):
    global ballast
    if self.progress.step == 3 and kind == "machine":
        os.replace(host.ROOT / "low", host.ROOT / "proc/meminfo")
        while True:
            sum(range(100))
    if self.progress.step == 3:
        ballast = b"x" * (int(kind) * 10**6 - host.Host().held())
    return original(self, done)

RunRecorder.after_step = after_step
run_entry("train.py", lambda: train.main(sys.argv[3:]))
"""


def child(kind: str, root: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return warm.run(["-c", CHILD, kind, str(root), *arguments], dict(os.environ))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("megabytes", "code"), [(318, Exit.PREEMPTED), (400, Exit.MEMORY)])
def test_a_real_limit(megabytes: int, code: Exit, data: Path, tmp_path: Path) -> None:
    run, endless = tmp_path / "run", ("--max-steps", "0", "--max-time", "100")
    flags = tiny.flags(data, run, *endless, "--host-memory-limit", "300M", "--num-workers", "0")
    done = child(str(megabytes), tmp_path, flags)
    assert done.returncode == code, done.stderr
    assert "above 300 MB (--host-memory-limit 300 MB)" in done.stdout + done.stderr
    assert record(run)["exit_code"] == code


@pytest.mark.slow
def test_a_machine_out_of_memory_ends_the_run_at_once(data: Path, tmp_path: Path) -> None:
    fake(tmp_path / "root")
    low = fake(tmp_path / "other", available=GIB // 2)
    os.replace(low / "proc/meminfo", tmp_path / "root/low")
    done = child("machine", tmp_path / "root", tiny.flags(data, tmp_path / "run", *STEPS))
    assert done.returncode == Exit.MEMORY
    line = (
        "train.py: error: out of host memory, ended at once: 537 MB of 25.77 GB are left on this "
        "machine; the last checkpoint is intact, "
    )
    assert line in done.stderr
    assert "in after_step" in done.stderr  # what the main thread was doing
    assert (record(tmp_path / "run")["status"], record(tmp_path / "run")["exit_code"]) == (
        "failed",
        Exit.MEMORY,
    )
    assert tiny.train(data, tmp_path / "run", *STEPS) == Exit.OK
    assert tiny.train(data, tmp_path / "whole", *STEPS) == Exit.OK
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(tmp_path / "whole")
