"""Row 10: signals in a step, in a save, twice, and where no training is under way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt2.checkpoint import store
from gpt2.config import faults
from gpt2.config.errors import Exit
from gpt2.machine import signals as requests
from gpt2.session import attempt, session
from gpt2.training.recorder import RunRecorder
from tests.support import tiny

pytestmark = pytest.mark.slow

STEPS = ("--max-steps", "6", "--dropout", "0.1", "--checkpoint-interval", "2")
Arm = Callable[[str], None]


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it, nothing is saved after it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.train(data, run, *STEPS) == Exit.OK
    return run


def assert_stopped(run: Path, step: int, by: str) -> None:
    """One whole checkpoint of `step` is the newest, nothing half written is left, all is said."""
    parent = run / "checkpoints"
    assert store.steps(parent)[-1] == step
    assert store.load(store.folder_of(parent, step)).step == step
    assert {path.name[:5] for path in parent.iterdir()} == {"step-"}
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("preempted", Exit.PREEMPTED)
    assert record["stopped_by"] == by
    shown = "Ctrl-C" if by == "SIGINT" else by
    log = (run / "log.txt").read_text()
    assert f"stopped ({shown}) after step {step}, checkpoint saved\nresume with: " in log


def assert_goes_on(data: Path, run: Path, whole: Path) -> None:
    faults._armed.cache_clear()
    os.environ.pop("GPT2_FAULT", None)
    assert tiny.train(data, run, *STEPS) == Exit.OK
    assert tiny.metrics(run) == tiny.metrics(whole)
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(whole)


def send_at(patch: pytest.MonkeyPatch, step: int, *numbers: int) -> None:
    """Let signals come when `step` has been computed."""
    original: Callable[..., bool] = RunRecorder.after_step

    def after_step(self: RunRecorder, done: object) -> bool:
        if self.progress.step == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(self, done)

    patch.setattr(RunRecorder, "after_step", after_step)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_in_a_step(
    name: str, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        send_at(patch, 3, signal.Signals[name])
        assert tiny.train(data, run, *STEPS) == Exit.PREEMPTED
    assert_stopped(run, 3, name)
    assert_goes_on(data, run, whole)


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("step.begin:term:3", 3),
        ("checkpoint.tensor:term:9", 2),
        ("checkpoint.tensor:term:9+", 2),  # from there on with every tensor
        ("checkpoint.purge:term:2", 4),
    ],
)
def test_sigterm_in_a_step_and_in_a_save(
    fault: str, step: int, arm: Arm, data: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arm(fault)
    assert tiny.train(data, run, *STEPS) == Exit.PREEMPTED
    assert_stopped(run, step, "SIGTERM")
    assert_goes_on(data, run, whole)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_sigint_twice_ends_the_process_at_once(
    first: signal.Signals, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exit_(code: int) -> None:
        assert code == Exit.INTERRUPTED
        raise Killed

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(requests.os, "_exit", exit_)
        send_at(patch, 3, first, signal.SIGINT, signal.SIGINT)
        with pytest.raises(Killed):
            tiny.train(data, run, *STEPS)
    assert store.steps(run / "checkpoints") == [2]  # that of step 3 was not begun
    store.load(store.folder_of(run / "checkpoints", 2))
    assert_goes_on(data, run, whole)


def test_a_signal_while_the_model_is_built(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = session.build_model

    def build_model(*given: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*given)  # type: ignore[arg-type]

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(session, "build_model", build_model)
        assert tiny.train(data, run, *STEPS) == Exit.PREEMPTED
    assert_stopped(run, 0, "SIGTERM")
    assert_goes_on(data, run, whole)


def test_a_signal_in_the_sample_of_a_finished_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = attempt.stream

    def stream(*given: object) -> Iterator[list[int]]:
        for number, tokens in enumerate(original(*given)):  # type: ignore[arg-type]
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield tokens

    monkeypatch.setattr(attempt, "stream", stream)
    run = tmp_path / "run"
    assert tiny.train(data, run, "--max-steps", "1", "--sample-tokens", "100000") == Exit.OK
    assert (run / "summary.json").exists()
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("finished", 0)
    sample = capsys.readouterr().out.split("--- sample ")[1]
    assert len(sample.splitlines()[1]) <= 4


def test_a_hangup_that_was_ignored_stays_ignored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run under nohup is not stopped by the end of its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        send_at(monkeypatch, 2, signal.SIGHUP)
        assert tiny.train(data, tmp_path / "run", "--max-steps", "3") == Exit.OK
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # all are put back


ENTRY = """
import os, signal, sys
from gpt2.config.entry import run_entry

def main():
    if sys.argv[2] == "at once":
        return 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    finally:
        print("cleaned up", flush=True)
    return 0

run_entry("entry.py", main)
"""


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGTERM", -signal.SIGTERM),
        ("SIGHUP", -signal.SIGHUP),
        ("SIGUSR1", -signal.SIGUSR1),
        ("SIGINT", Exit.INTERRUPTED),
    ],
)
def test_an_entry_cleans_up_and_ends_by_its_signal(name: str, code: int) -> None:
    command = [sys.executable, "-c", ENTRY, str(int(signal.Signals[name])), "kill"]
    done = subprocess.run(
        command, cwd=tiny.REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "cleaned up\n", "")


def test_a_preparation_that_is_terminated_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_text("to be or not to be\n" * 3000)

    def prepare(folder: str, fault: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "gpt2/prepare_data.py", "--dataset", "text", "--input"]
        command += [str(source), "--data-dir", str(tmp_path / folder), "--tokenizer", "char"]
        return subprocess.run(
            command, cwd=tiny.REPOSITORY, env={"PATH": "/usr/bin:/bin", "GPT2_FAULT": fault},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    stopped = prepare("one", "data.rename:term")
    assert stopped.returncode == -signal.SIGTERM
    said = "prepare_data.py: error: interrupted; the same command continues from what is already"
    assert stopped.stderr.startswith(said)
    assert stopped.stderr.count("\n") == 1
    assert not (tmp_path / "one" / "text" / "meta.json").exists()
    assert prepare("one").returncode == Exit.OK
    assert prepare("two").returncode == Exit.OK
    for name in ("train.bin", "val.bin"):
        one, two = (tmp_path / folder / "text" / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
