"""Rows 3 to 6, 33, 34: damage to checkpoints, and checkpoints written while training goes on.

Rows 1 to 3 and 7 are also in run_dir/test_resume.py, checkpoint/test_store.py and
weights/test_pretrained.py.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt2.checkpoint import store as ck
from gpt2.checkpoint.background import Background, Copies
from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.session.attempt import Attempt
from gpt2.training.loop import Step
from gpt2.training.recorder import RunRecorder
from tests.checkpoint.test_store import DAMAGE, flip, made, no_warning
from tests.run_dir.test_resume import Killed, train_killed
from tests.support import tiny

FILES = ("model.safetensors", "optim.safetensors", "state.json")
ASYNC = "--async-checkpoint"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


def contents(run: Path) -> dict[str, bytes]:
    """Return the tensor files of every checkpoint of a run."""
    parent = run / "checkpoints"
    files = sorted(parent.rglob("*.safetensors"))
    return {str(path.relative_to(parent)): path.read_bytes() for path in files}


def writers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "checkpoint" in thread.name]


def test_killed_before_the_older_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 3: one more than are kept lies there, the newest counts, the next save clears up."""
    for step in (1, 2):
        ck.save(tmp_path, made(step))

    def killed(name: str) -> None:
        if name == "checkpoint.purge":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(faults, "failpoint", killed)
        with pytest.raises(Killed):
            ck.save(tmp_path, made(3))
    assert ck.steps(tmp_path) == [1, 2, 3]
    assert len(ck.steps(tmp_path)) == ck.KEEP_LAST + 1
    found = ck.load_last(tmp_path, no_warning)
    assert found is not None
    assert found.step == 3
    ck.save(tmp_path, made(4))
    assert ck.steps(tmp_path) == [3, 4]


def fingerprint(recorder: RunRecorder) -> str:
    """Return a hash of everything a checkpoint puts back into a live run."""
    digest = hashlib.sha256()
    parts = recorder.parts
    tensors = [*parts.model.state_dict().values(), torch.get_rng_state()]
    for state in parts.optimizer.state_dict()["state"].values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    for tensor in tensors:
        digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(f"{recorder.progress.step} {recorder.best} {recorder.last}".encode())
    return digest.hexdigest()


@pytest.mark.slow
def test_damage_leaves_the_live_model_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows 4 and 5: each damage to each file is named, exit 4; nothing is loaded in part.

    The same damages, and going back to the checkpoint before, are in checkpoint/test_store.py.
    """
    more = ("--max-steps", "4", "--checkpoint-interval", "2")
    run = tmp_path / "run"
    train_killed(monkeypatch, 2, data, run, *more)
    folder = ck.folder_of(run / "checkpoints", 2)
    original = RunRecorder.restore
    tried = []

    def restore(self: RunRecorder, rollback: None) -> None:
        before = fingerprint(self)
        for name, (damage, change) in itertools.product(FILES, DAMAGE.items()):
            good = (folder / name).read_bytes()
            change(folder / name)
            with pytest.raises(UserError) as error:
                original(self, rollback)
            assert error.value.code == Exit.CHECKPOINT
            assert fingerprint(self) == before, (name, damage)
            said = capsys.readouterr().err.splitlines()
            assert len(said) == 1
            assert str(folder / name) in said[0]
            (folder / name).write_bytes(good)
            tried.append((name, damage))
        original(self, rollback)  # whole again, it is taken
        assert fingerprint(self) != before

    monkeypatch.setattr(RunRecorder, "restore", restore)
    assert tiny.train(data, run, *more) == Exit.OK
    assert len(tried) == 3 * len(DAMAGE)


def test_what_a_disk_cannot_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 4: a sector that is gone is as a flipped bit, the checkpoint before is taken."""
    for step in (1, 2):
        ck.save(tmp_path, made(step))
    bad = ck.folder_of(tmp_path, 2) / "optim.safetensors"
    original = Path.open

    def opened(self: Path, *more: str, **named: str) -> object:
        if self == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(self, *more, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", opened)
    said: list[str] = []
    found = ck.load_last(tmp_path, said.append)
    assert found is not None
    assert found.step == 1
    assert f"{bad} cannot be read: Input/output error" in said[0]


def rewrite_manifest(folder: Path, **changes: object) -> None:
    path = folder / "MANIFEST.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("alone", [True, False])
def test_a_newer_format_is_not_given_up(alone: bool, tmp_path: Path) -> None:
    """Row 6: exit 4 with both formats; to go back behind it would in time remove it."""
    for step in (3,) if alone else (2, 3):
        ck.save(tmp_path, made(step))
    # Not even the fields that this program needs.
    (ck.folder_of(tmp_path, 3) / "MANIFEST.json").write_text('{"format": 3, "parts": {}}')
    with pytest.raises(
        UserError, match="has format 3, this program reads formats up to 2"
    ) as error:
        ck.load_last(tmp_path, no_warning)
    assert error.value.code == Exit.CHECKPOINT
    way = "it is the only one" if alone else "move it away to go on after step 2"
    assert str(error.value).endswith(way)
    shutil.move(ck.folder_of(tmp_path, 3), tmp_path / "away")
    found = ck.load_last(tmp_path, no_warning)
    assert (found and found.step) == (None if alone else 2)


@pytest.mark.parametrize("name", ["../outside", "ABSOLUTE", "..", "", "inner/outside"])
def test_a_manifest_names_files_of_its_folder_only(name: str, tmp_path: Path) -> None:
    """Row 6: also where such a file is there, and is what the manifest says."""
    parent = tmp_path / "checkpoints"
    ck.save(parent, made(1))
    ck.save(parent, made(2))
    folder = ck.folder_of(parent, 2)
    (folder / "inner").mkdir()
    for path in (parent / "outside", folder / "inner/outside"):
        path.write_text("text")
    name = str(parent / "outside") if name == "ABSOLUTE" else name
    files = json.loads((folder / "MANIFEST.json").read_text())["files"]
    right = [4, hashlib.sha256(b"text").hexdigest()]
    rewrite_manifest(folder, files={**files, name: right})
    said: list[str] = []
    found = ck.load_last(parent, said.append)
    assert (found and found.step) == 1
    assert f"names {name!r}, which is not a file in its folder" in said[0]


@pytest.mark.parametrize(
    "text", ["", "[" * 100000, '{"format": 1, "files": {"state.json": 5}, "complete": true}',
             '{"format": 1, "files": [[[], []]], "complete": true}', "\x00", "null"],
)  # fmt: skip
def test_a_manifest_that_is_none(text: str, tmp_path: Path) -> None:
    """Row 6: whatever it holds, it is damage, and no traceback."""
    ck.save(tmp_path, made(1))
    (ck.folder_of(tmp_path, 1) / "MANIFEST.json").write_text(text)
    said: list[str] = []
    with pytest.raises(UserError, match="can be used") as error:
        ck.load_last(tmp_path, said.append)
    assert error.value.code == Exit.CHECKPOINT
    assert re.search("MANIFEST.json is (missing or damaged|incomplete)", said[0])


@pytest.mark.slow
def test_written_in_the_background_they_are_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 33: the same checkpoints are kept, the best among them, each the same to the bit."""
    more = (
        "--max-steps", "6", "--checkpoint-interval", "2", "--eval-interval", "1", "--dropout",
        "0.1", "--save-every-best", "--pruning-method", "movement", "--target-sparsity", "0.5",
        "--pruning-end", "0.4",
    )  # fmt: skip
    # The third step is the best of them.
    monkeypatch.setattr(Attempt, "evaluate", lambda self: 1.0 + abs(self.progress.step - 3.0))
    for name, way in (("sync", "--no-async-checkpoint"), ("async", ASYNC)):
        assert tiny.train(data, tmp_path / name, *more, way) == Exit.OK
    assert contents(tmp_path / "async") == contents(tmp_path / "sync")
    states = [
        [
            {**json.loads(path.read_text()), "elapsed": None}
            for path in sorted((tmp_path / name / "checkpoints").rglob("state.json"))
        ]
        for name in ("async", "sync")
    ]
    assert states[0] == states[1]
    assert [state["step"] for state in states[0]] == [3, 4, 6]
    assert tiny.metrics(tmp_path / "async") == tiny.metrics(tmp_path / "sync")
    assert not writers()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what the thread that writes waits for before its first tensor."""
    event = threading.Event()

    def point(name: str) -> None:
        if name == "checkpoint.tensor" and threading.current_thread() is not main:
            assert event.wait(60.0)

    main = threading.main_thread()
    monkeypatch.setattr(faults, "failpoint", point)
    return event


def at_step(
    monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[RunRecorder], None]]
) -> None:
    """Do something before the recorder is told of a step."""
    original = RunRecorder.after_step

    def after_step(self: RunRecorder, done: Step) -> bool:
        if self.progress.step in actions:
            actions[self.progress.step](self)
        return original(self, done)

    monkeypatch.setattr(RunRecorder, "after_step", after_step)


def test_a_checkpoint_is_of_its_moment(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    """Row 33: not a byte is written before two more steps have changed everything."""
    more = ("--max-steps", "5", "--checkpoint-interval", "3", "--dropout", "0.1")
    assert tiny.train(data, tmp_path / "sync", *more) == Exit.OK
    seen = []

    def look(recorder: RunRecorder) -> None:
        seen.append((recorder.progress.step, ck.steps(recorder.folder.checkpoints)))

    def release(recorder: RunRecorder) -> None:
        look(recorder)
        gate.set()

    at_step(monkeypatch, {4: look, 5: release})
    assert tiny.train(data, tmp_path / "async", *more, ASYNC) == Exit.OK
    assert seen == [(4, []), (5, [])]
    assert contents(tmp_path / "async") == contents(tmp_path / "sync")
    assert len(contents(tmp_path / "sync")) == 4
    assert not writers()


def test_copies_share_nothing_and_take_the_same_memory() -> None:
    """Row 33: of every format, of tensors in another order in memory, of JSON inside JSON."""
    formats = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    model = {str(kind): torch.ones(3, 2).to(kind) for kind in formats}
    model["turned"] = torch.arange(6.0).reshape(2, 3).t()
    model["parameter"] = torch.nn.Parameter(torch.ones(2))
    live = ck.Checkpoint(1, model, {"count": torch.tensor(1.0)}, {"a": {"b": [1]}})
    copies = Copies()
    first = copies.of(live)
    places = {name: tensor.data_ptr() for name, tensor in first.model.items()}
    for tensor in (*model.values(), live.optim["count"]):
        tensor.data.zero_()
    live.state["a"]["b"].append(2)
    assert all(bool(tensor.any()) for tensor in first.model.values())
    assert torch.equal(first.model["turned"], torch.arange(6.0).reshape(2, 3).t())
    assert first.model["turned"].is_contiguous()
    assert not first.model["parameter"].requires_grad
    assert (float(first.optim["count"]), first.state) == (1.0, {"a": {"b": [1]}})
    model["turned"] = torch.ones(4)
    second = copies.of(live)
    same = {name for name, tensor in second.model.items() if tensor.data_ptr() == places[name]}
    assert same >= model.keys() - {"turned"}
    assert torch.equal(second.model["turned"], torch.ones(4))


def test_an_error_in_the_thread_is_said_at_the_next_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 34: as a save that training waits for would say it; the run goes on and is whole."""
    more = ("--max-steps", "5", "--checkpoint-interval", "2")
    assert tiny.train(data, tmp_path / "sync", *more) == Exit.OK
    ended = threading.Event()
    original = Background.start

    def start(self: Background, task: Callable[[], None]) -> None:
        original(self, task)
        assert self._task is not None
        self._task.add_done_callback(lambda _: ended.set())

    def full(name: str) -> None:
        if name == "checkpoint.manifest" and not ended.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wait(_: RunRecorder) -> None:
        assert ended.wait(60.0)
        capsys.readouterr()

    said = []

    def listen(recorder: RunRecorder) -> None:
        said.append(capsys.readouterr().err)
        assert not list(recorder.folder.checkpoints.iterdir())

    monkeypatch.setattr(Background, "start", start)
    monkeypatch.setattr(faults, "failpoint", full)
    at_step(monkeypatch, {3: wait, 4: listen})
    assert tiny.train(data, tmp_path / "async", *more, ASYNC) == Exit.OK
    assert said == [
        "warning: checkpoint of step 2 was not written: No space left on device; training "
        "continues, the older checkpoints are intact\n"
    ]
    assert contents(tmp_path / "async") == contents(tmp_path / "sync")
    assert not writers()


def test_no_error_in_the_thread_is_lost(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 34: what is no fault of the disk ends the run, and leaves no thread behind."""

    def broken(name: str) -> None:
        if name == "checkpoint.manifest":
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(faults, "failpoint", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        tiny.train(data, tmp_path / "run", "--max-steps", "9", "--checkpoint-interval", "2", ASYNC)
    assert not writers()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", Exit.BUG)


def test_a_run_that_fails_finishes_what_is_being_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    """Row 34: the checkpoint under way has its name when the error has left the run."""
    threading.Timer(0.2, gate.set).start()
    more = ("--max-steps", "6", "--checkpoint-interval", "2", ASYNC)
    train_killed(monkeypatch, 2, data, tmp_path / "run", *more)
    assert not writers()
    assert ck.steps(tmp_path / "run" / "checkpoints") == [2]
    assert ck.load_last(tmp_path / "run" / "checkpoints", no_warning) is not None


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["checkpoint.tensor:kill:200", "checkpoint.rename:term:2"])
def test_ended_while_the_thread_writes(
    fault: str, data: Path, tmp_path: Path, arm: Callable[[str], None]
) -> None:
    """Rows 1 and 33: killed or told to stop; what goes on ends with the same bits."""
    more = ("--max-steps", "8", "--checkpoint-interval", "2", "--dropout", "0.1", ASYNC)
    run = tmp_path / "run"
    if "kill" in fault:
        assert tiny.train_process(data, run, *more, fault=fault).returncode == -9
        left = [path.name for path in (run / "checkpoints").iterdir()]
        assert len([name for name in left if name.startswith(".tmp-step-")]) == 1
        assert ck.load_last(run / "checkpoints", no_warning) is not None
    else:
        arm(fault)
        assert tiny.train(data, run, *more) == Exit.PREEMPTED
        assert not list((run / "checkpoints").glob(".tmp-*"))
        record = json.loads((run / "run.json").read_text())
        assert record["stopped_by"] == "SIGTERM"
        assert not writers()
    arm("")
    assert tiny.train(data, run, *more) == Exit.OK
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    assert contents(run) == contents(tmp_path / "whole")
    assert tiny.metrics(run) == tiny.metrics(tmp_path / "whole")


def test_a_flip_is_found_in_what_the_thread_wrote(data: Path, tmp_path: Path) -> None:
    """Rows 4 and 33: the sums are those of the bytes that were written."""
    more = ("--max-steps", "3", "--checkpoint-interval", "2", ASYNC)
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    parent = tmp_path / "run" / "checkpoints"
    ck.load(ck.folder_of(parent, 2))
    flip(ck.folder_of(parent, 3) / "model.safetensors")
    said: list[str] = []
    found = ck.load_last(parent, said.append)
    assert (found and found.step, len(said)) == (2, 1)
