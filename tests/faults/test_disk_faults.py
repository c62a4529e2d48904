"""Rows 8 and 9: disks that are full, read-only or broken; what a run loses, and what it never does.

Of a single save, the same is in checkpoint/test_store.py.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gpt2.checkpoint import store as ck
from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.session.attempt import Attempt
from gpt2.training.loop import Step
from gpt2.training.recorder import RunRecorder
from tests.checkpoint.test_store import flip, made, no_warning
from tests.run_dir.test_resume import train_killed
from tests.support import tiny

pytestmark = pytest.mark.slow

STEPS = ("--max-steps", "6", "--dropout", "0.1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.train(data, run, *STEPS) == Exit.OK
    return run


def contents(run: Path) -> dict[str, bytes]:
    """Return every file of every checkpoint of a run, finished or not."""
    parent = run / "checkpoints"
    files = sorted(path for path in parent.rglob("*") if path.is_file())
    return {str(path.relative_to(parent)): path.read_bytes() for path in files}


#: For the save of each step: the point at which the disk fails, its passing since then, and how.
FAILING = {
    2: ("checkpoint.tensor", 1, errno.ENOSPC),
    3: ("checkpoint.tensor", 70, errno.ENOSPC),
    4: ("checkpoint.sync", 2, errno.EIO),
    5: ("checkpoint.manifest", 1, errno.ENOSPC),
}


@pytest.mark.parametrize("way", ["--no-async-checkpoint", "--async-checkpoint"])
def test_a_periodic_save_that_fails(
    way: str, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Row 8: at the first write, in the middle, at the sync, at the manifest; rows 33, 34 too."""
    left, due = [0], [""]
    number = [0]
    first: dict[str, bytes] = {}
    original = RunRecorder.save
    checked = []

    def point(name: str) -> None:
        if name == due[0]:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(number[0], os.strerror(number[0]))

    def save(self: RunRecorder, required: bool) -> None:
        step = self.progress.step
        due[0], left[0], number[0] = FAILING.get(step, ("", 0, 0))
        original(self, required)
        self._saver.wait()
        if step == 1:
            first.update(contents(self.folder.path))
        elif step in FAILING:
            assert contents(self.folder.path) == first
            assert [path.name for path in self.folder.checkpoints.iterdir()] == ["step-00000001"]
            checked.append(step)

    monkeypatch.setattr(faults, "failpoint", point)
    monkeypatch.setattr(RunRecorder, "save", save)
    run = tmp_path / "run"
    assert tiny.train(data, run, *STEPS, "--checkpoint-interval", "1", way) == Exit.OK
    assert checked == list(FAILING)
    told = capsys.readouterr().err.splitlines()
    assert len(first) == len(told) == 4
    for line, (step, (_, _, code)) in zip(told, FAILING.items(), strict=True):
        assert line == (
            f"warning: checkpoint of step {step} was not written: {os.strerror(code)}; training "
            "continues, the older checkpoints are intact"
        )
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(whole)
    assert tiny.metrics(run) == tiny.metrics(whole)


@pytest.mark.parametrize("way", ["--no-async-checkpoint", "--async-checkpoint"])
def test_the_best_stays_until_a_better_one_is_there(
    way: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 8: where the save of a new best fails, the best before it is not given up."""
    losses = {1: 5.0, 2: 4.0, 3: 3.0, 4: 6.0, 5: 6.0, 6: 6.0}
    monkeypatch.setattr(Attempt, "evaluate", lambda self: losses[self.progress.step])
    manifests = [0]

    def point(name: str) -> None:
        manifests[0] += name == "checkpoint.manifest"
        if name == "checkpoint.manifest" and manifests[0] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(faults, "failpoint", point)
    each = ("--checkpoint-interval", "1", "--eval-interval", "1", way)
    assert tiny.train(data, tmp_path / "run", *STEPS, *each) == Exit.OK
    assert ck.steps(tmp_path / "run" / "checkpoints") == [2, 5, 6]


def test_the_last_save_must_be_written(
    data: Path, whole: Path, tmp_path: Path, arm: Callable[[str], None]
) -> None:
    """Row 8: exit 4, not a false success; with room, the same command has the same result."""
    run, more = tmp_path / "run", (*STEPS, "--checkpoint-interval", "4", "--async-checkpoint")
    arm("checkpoint.manifest:enospc:2+")
    with pytest.raises(UserError, match="make room and run this again to go on") as error:
        tiny.train(data, run, *more)
    assert error.value.code == Exit.CHECKPOINT
    assert str(error.value).startswith("checkpoint of step 6 was not written: No space left on")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", Exit.CHECKPOINT)
    arm("")
    assert tiny.train(data, run, *more) == Exit.OK
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(whole)
    assert tiny.metrics(run) == tiny.metrics(whole)


LIMITED = """
import resource, runpy, signal, sys
assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python sees to that
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.argv = ["gpt2/train.py", *sys.argv[1:]]
runpy.run_path("gpt2/train.py", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_real_limit(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 8: the system itself refuses more bytes; the process is not killed by SIGXFSZ."""
    run, more = tmp_path / "run", (*STEPS, "--checkpoint-interval", "2")
    train_killed(monkeypatch, 2, data, run, *more)
    before = contents(run)
    command = [sys.executable, "-c", LIMITED, *tiny.flags(data, run, *more)]
    done = subprocess.run(
        command, cwd=tiny.REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == Exit.CHECKPOINT, done.stderr
    assert [line.partition(";")[0] for line in done.stderr.splitlines()] == [
        "warning: checkpoint of step 4 was not written: File too large",
        "train.py: error: checkpoint of step 6 was not written: File too large",
    ]
    assert contents(run) == before


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what sets the size of a made-up disk; what lies in the test's folder fills it."""

    def sized(total: int) -> None:
        def usage(_: Path) -> Usage:
            used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
            return Usage(total, used, max(0, total - used))

        monkeypatch.setattr(shutil, "disk_usage", usage)

    return sized


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_room_is_made_of_what_need_not_be_kept(tmp_path: Path, disk: Callable[[int], None]) -> None:
    """Row 8: checkpoints beyond those that are kept go first, the others never."""
    for step in (1, 2, 3, 4):
        ck.save(tmp_path, made(step), keep=[1, 2, 3])
    assert ck.steps(tmp_path) == [1, 2, 3, 4]
    kept = {step: tiny_bytes(ck.folder_of(tmp_path, step)) for step in (1, 3, 4)}
    size = size_of(ck.folder_of(tmp_path, 4))
    disk(round(4.5 * size))
    ck.save(tmp_path, made(5), keep=[1])
    assert ck.steps(tmp_path) == [1, 4, 5]
    disk(round(3.5 * size))
    with pytest.raises(OSError, match="bytes free, and it needs") as error:
        ck.save(tmp_path, made(6), keep=[1])
    assert error.value.errno == errno.ENOSPC
    assert ck.steps(tmp_path) == [1, 4, 5]
    assert {step: tiny_bytes(ck.folder_of(tmp_path, step)) for step in (1, 4)} == {
        step: kept[step] for step in (1, 4)
    }
    assert not list(tmp_path.glob(".tmp-*"))


def tiny_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_asked_for_is_what_is_written(tmp_path: Path) -> None:
    """Row 8: the forecast is the files' own size, but for the manifest's few bytes."""
    ck.save(tmp_path, made(1))
    folder = ck.folder_of(tmp_path, 1)
    manifest = (folder / "MANIFEST.json").stat().st_size
    assert ck.bytes_of(made(1)) == size_of(folder) - manifest
    assert manifest < 1000


def test_a_disk_that_does_not_say_is_tried(tmp_path: Path, disk: Callable[[int], None]) -> None:
    """Row 8: some network file systems answer 0 of 0."""
    disk(0)
    ck.save(tmp_path, made(1))
    assert ck.load_last(tmp_path, no_warning) is not None


def test_without_room_the_run_goes_on_and_says_so_at_the_end(
    data: Path, tmp_path: Path, disk: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 8: a warning with the bytes that are free and needed; at the end they are exit 4."""
    disk(1)
    with pytest.raises(UserError, match="bytes free, and it needs") as error:
        tiny.train(data, tmp_path / "run", *STEPS, "--checkpoint-interval", "4")
    assert error.value.code == Exit.CHECKPOINT
    said = f"was not written: the disk of {tmp_path}/run/checkpoints has 0 bytes free, and it needs"
    assert f"checkpoint of step 6 {said} " in str(error.value)
    assert f"warning: checkpoint of step 4 {said} " in capsys.readouterr().err
    assert [line["step"] for line in tiny.metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.fixture
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step be an error of the test."""

    def after_step(self: RunRecorder, done: Step) -> bool:
        raise AssertionError("a step was made")

    monkeypatch.setattr(RunRecorder, "after_step", after_step)


@pytest.mark.parametrize("fault", ["run.open:erofs", "run.write:erofs", "run.open:enospc"])
@pytest.mark.usefixtures("no_step")
def test_a_folder_that_cannot_be_written(
    fault: str, data: Path, tmp_path: Path, arm: Callable[[str], None]
) -> None:
    """Row 9: exit 2 before the first step; the message names the folder."""
    arm(fault)
    with pytest.raises(UserError, match="cannot be written: ") as error:
        tiny.train(data, tmp_path / "run", *STEPS)
    assert error.value.code == Exit.CONFIG
    assert str(tmp_path / "run") in str(error.value)
    reason = errno.EROFS if "erofs" in fault else errno.ENOSPC
    assert os.strerror(reason) in str(error.value)


@pytest.mark.usefixtures("no_step")
def test_checkpoints_that_could_not_be_written(data: Path, tmp_path: Path) -> None:
    """Row 9: that is found before the first step, too, and not at the first save."""
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / "checkpoints").write_text("a file, where a folder should be")
    with pytest.raises(UserError, match=r"checkpoints cannot be written: .*; choose") as error:
        tiny.train(data, run, *STEPS)
    assert error.value.code == Exit.CONFIG


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.usefixtures("no_step")
def test_checkpoints_that_became_read_only(
    number: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 9: the folder is there, but nothing can be made in it (chmod does not stop root)."""
    run, original = tmp_path / "run", Path.mkdir

    def mkdir(self: Path, *more: int, **named: bool) -> None:
        if self.parent == run / "checkpoints":
            raise OSError(number, os.strerror(number))
        original(self, *more, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError, match="checkpoints cannot be written: ") as error:
        tiny.train(data, run, *STEPS)
    assert error.value.code == Exit.CONFIG
    assert os.strerror(number) in str(error.value)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("metrics.write:enospc:2+", "metrics.jsonl: a line is lost: No space left on device"),
        ("metrics.sync:eio:*", "metrics.jsonl: a power cut could cost lines of it: Input/output"),
        ("log.write:enospc:2+", "log.txt: cannot be written: No space left on device"),
    ],
)
def test_no_line_is_worth_the_run(
    fault: str, said: str, data: Path, whole: Path, tmp_path: Path, arm: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Row 8: what is written on the way may be lost, said; the weights are those of any run."""
    arm(fault)
    run = tmp_path / "run"
    assert tiny.train(data, run, *STEPS, "--checkpoint-interval", "3") == Exit.OK
    assert said in capsys.readouterr().err
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(whole)
    kept = tiny.metrics(run)
    assert kept == tiny.metrics(whole)[: len(kept)]
    assert len(kept) == (1 if "write:enospc" in fault and "metrics" in fault else 7)


def test_results_that_cannot_be_written(
    data: Path, whole: Path, tmp_path: Path, arm: Callable[[str], None]
) -> None:
    """Row 8: exit 4, the weights are safe, and with room the same command has the results."""
    run = tmp_path / "run"
    # Before: command, config, run.json, metrics.jsonl as it begins, run.json.
    arm("run.write:enospc:6+")
    with pytest.raises(UserError, match=r"summary.json: cannot be written: No space") as error:
        tiny.train(data, run, *STEPS)
    assert error.value.code == Exit.CHECKPOINT
    assert "the last checkpoint is whole: make room and run this again" in str(error.value)
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(whole)
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    assert not list(run.glob(".tmp-*"))
    arm("")
    assert tiny.train(data, run, *STEPS) == Exit.OK
    assert tiny.metrics(run) == tiny.metrics(whole)
    assert json.loads((run / "summary.json").read_text())["steps"] == 6


def test_a_disk_that_fails_while_another_is_damaged(tmp_path: Path) -> None:
    """Rows 4 and 8: a save that fails does not take the last good one for a damaged one."""
    ck.save(tmp_path, made(1))
    ck.save(tmp_path, made(2))
    flip(ck.folder_of(tmp_path, 2) / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:

        def full(name: str) -> None:
            if name == "checkpoint.rename":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(faults, "failpoint", full)
        with pytest.raises(OSError, match="No space"):
            ck.save(tmp_path, made(2))
    said: list[str] = []
    found = ck.load_last(tmp_path, said.append)
    assert (found and found.step, len(said)) == (1, 1)


@pytest.mark.parametrize(
    ("more", "steps", "best"),
    [
        (("--checkpoint-interval", "4"), [4, 6], 4),
        (("--checkpoint-interval", "4", "--save-every-best"), [3, 4, 6], 3),
        (("--checkpoint-interval", "0"), [6], 6),
        (("--checkpoint-interval", "2", "--eval-interval", "3"), [3, 4, 6], 3),
    ],
)
def test_the_best_costs_no_checkpoints_of_its_own_unless_asked(
    more: tuple[str, ...], steps: list[int], best: int, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    losses = {1: 5.0, 2: 4.0, 3: 3.0, 4: 3.5, 5: 6.0, 6: 6.0}
    monkeypatch.setattr(Attempt, "evaluate", lambda self: losses[self.progress.step])
    every = () if "--eval-interval" in more else ("--eval-interval", "1")
    assert tiny.train(data, tmp_path / "run", *STEPS, *more, *every) == Exit.OK
    assert ck.steps(tmp_path / "run" / "checkpoints") == steps
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["best"] == {"step": best, "val_loss": losses[best]}
