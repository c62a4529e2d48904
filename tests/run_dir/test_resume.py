"""run(N) equals run(k) + kill -9 + resume(N-k), bit for bit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2 import evaluate
from gpt2.config.errors import Exit, UserError
from gpt2.files.json import read_record
from gpt2.run_dir import resume
from gpt2.run_dir.folder import RunFolder
from gpt2.run_dir.records import RunRecord
from gpt2.session import check, session
from gpt2.training.recorder import RunRecorder
from tests.support import tiny

# 450 training characters in blocks of 8 are 56 sequences: with batches of 4, accumulated twice,
# an epoch ends after step 7.
HARD = ("--dropout", "0.1", "--gradient-accumulation", "2", "--checkpoint-interval", "1")


class Killed(BaseException):
    """Stands for a kill: nothing catches it, nothing is saved after it."""


def train_killed(
    monkeypatch: pytest.MonkeyPatch, step: int, data: Path, run: Path, *more: str
) -> None:
    """Train in this process until something ends it after `step`, as a kill would."""
    original: Callable[..., bool] = RunRecorder.after_step

    def after_step(self: RunRecorder, done: object) -> bool:
        going = original(self, done)
        if self.progress.step == step:
            raise Killed
        return going

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "after_step", after_step)
        with pytest.raises(Killed):
            tiny.train(data, run, *more)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Undisturbed runs, made once for each set of flags."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*more: str) -> Path:
        if more not in made:
            made[more] = tmp_path_factory.mktemp("whole") / "run"
            assert tiny.train(data, made[more], *more) == Exit.OK
        return made[more]

    return run


def assert_same(run: Path, reference: Path) -> None:
    assert tiny.metrics(run) == tiny.metrics(reference)
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(reference)
    results = [json.loads((path / "summary.json").read_text()) for path in (run, reference)]
    assert results[0]["val_loss"] == results[1]["val_loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "step"), [("1", 1), ("1", 6), ("1", 7), ("2", 6), ("2", 7), ("2", 8)]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resume_is_bit_exact(
    step: int, epochs: str, precision: str, data: Path, whole: Callable[..., Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    more = (*HARD, "--num-epochs", epochs, "--precision", precision)
    reference = whole(*more)
    train_killed(monkeypatch, step, data, tmp_path / "run", *more)
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    assert_same(tmp_path / "run", reference)


@pytest.mark.slow
def test_what_may_differ_at_a_resume(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "6", "--checkpoint-interval", "1")
    train_killed(monkeypatch, 3, data, tmp_path / "run", *more)
    other = ("--num-workers", "0", "--log-interval", "2", "--eval-interval", "5")
    assert tiny.train(data, tmp_path / "run", "--max-steps", "6", *other) == Exit.OK


@pytest.mark.slow
def test_a_run_goes_on_in_half_the_memory(
    data: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "6", "--checkpoint-interval", "1")
    reference = json.loads((whole(*more) / "summary.json").read_text())
    train_killed(monkeypatch, 3, data, tmp_path / "run", *more)
    half = ("--batch-size", "2", "--gradient-accumulation", "2")
    assert tiny.train(data, tmp_path / "run", *more, *half) == Exit.OK
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["val_loss"] == pytest.approx(reference["val_loss"], abs=1e-6)
    assert found["tokens"] == reference["tokens"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["effective_batch"], record["determinism"]) == (4, "statistical")
    with pytest.raises(UserError, match="finished"):
        tiny.train(data, tmp_path / "run", *more)


def test_a_limit_of_0_is_said_in_words(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert tiny.train(data, run, "--max-steps", "2") == Exit.OK
    (run / "summary.json").unlink()
    with pytest.raises(UserError) as caught:
        tiny.train(data, run, "--max-steps", "2", "--max-time", "60", "--num-epochs", "3")
    said = "\n".join(caught.value.messages)
    assert f"--max-time is 60 but the run in {run} has no limit; " in said
    assert f"--num-epochs is 3.0 but the run in {run} has no limit; " in said


def test_a_resume_with_another_step_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "6", "--checkpoint-interval", "1")
    train_killed(monkeypatch, 3, data, tmp_path / "run", *more)
    with pytest.raises(UserError, match="--batch-size is 2 but the run in"):
        tiny.train(data, tmp_path / "run", *more, "--batch-size", "2")


@pytest.mark.slow
def test_a_resume_with_other_options_is_refused_by_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "6", "--checkpoint-interval", "1")
    train_killed(monkeypatch, 2, data, tmp_path / "run", *more)
    before = tiny.checkpoint_bytes(tmp_path / "run")
    with pytest.raises(UserError) as error:
        tiny.train(data, tmp_path / "run", "--max-steps", "7", "--adamw-beta2", "0.9")
    assert error.value.code == Exit.CONFIG
    named = [message.split()[0] for message in error.value.messages]
    assert named == ["--adamw-beta2", "--max-steps"]
    assert tiny.checkpoint_bytes(tmp_path / "run") == before


def test_a_resume_on_other_data_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tiny.make_data(tmp_path / "data")
    more = ("--max-steps", "6", "--checkpoint-interval", "1")
    train_killed(monkeypatch, 2, own, tmp_path / "run", *more)
    tiny.make_data(tmp_path / "data", characters=700)
    with pytest.raises(UserError, match="data have changed"):
        tiny.train(own, tmp_path / "run", "--max-steps", "6")


@pytest.mark.slow
def test_the_data_may_have_been_moved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tiny.make_data(tmp_path / "data")
    more = ("--max-steps", "4", "--checkpoint-interval", "1")
    train_killed(monkeypatch, 2, own, tmp_path / "run", *more)
    own.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="name the folder of the data by --data-dir"):
        tiny.train(own, tmp_path / "run", *more)
    assert tiny.train(tmp_path / "elsewhere", tmp_path / "run", *more) == Exit.OK
    # The change is recorded, and what follows finds the data: evaluate.py reads `config`.
    record = read_record(tmp_path / "run" / "run.json", RunRecord, "")
    assert record.data is not None
    assert record.data.folder == str(tmp_path / "elsewhere")
    assert record.data.earlier_folders == (str(own),)
    command = ["--run", str(tmp_path / "run"), "--device", "cpu"]
    assert evaluate.main(command) == Exit.OK
    (tmp_path / "elsewhere").rename(tmp_path / "third")
    with pytest.raises(UserError, match="by --data-dir"):
        evaluate.main(command)
    assert evaluate.main([*command, "--data-dir", str(tmp_path / "third")]) == Exit.OK


def test_with_rollbacks_the_checkpoint_interval_must_stay(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "6", "--spike", "rollback")
    train_killed(monkeypatch, 2, data, tmp_path / "run", *more, "--checkpoint-interval", "1")
    with pytest.raises(UserError, match="--checkpoint-interval is 2 but the run in"):
        tiny.train(data, tmp_path / "run", *more, "--checkpoint-interval", "2")


@pytest.mark.slow
def test_a_kill_before_the_first_checkpoint_leaves_no_double_lines(
    data: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "8", "--checkpoint-interval", "5")
    train_killed(monkeypatch, 3, data, tmp_path / "run", *more)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    assert_same(tmp_path / "run", whole(*more))


@pytest.mark.slow
def test_a_kill_between_the_last_save_and_the_results(
    data: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "6", "--eval-interval", "3", "--checkpoint-interval", "3")
    original = RunRecorder.conclude

    def killed(self: RunRecorder) -> None:
        original(self)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "conclude", killed)
        with pytest.raises(Killed):
            tiny.train(data, tmp_path / "run", *more)
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    assert_same(tmp_path / "run", whole(*more))


@pytest.mark.slow
def test_a_link_to_a_run_is_the_run(
    data: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "6", "--checkpoint-interval", "1")
    monkeypatch.setattr(resume, "RUNS", tmp_path)
    monkeypatch.setattr(session, "RUNS", tmp_path)
    train_killed(monkeypatch, 3, data, tmp_path / "one", *more)
    assert (tmp_path / "latest").resolve() == tmp_path / "one"
    assert tiny.train(data, tmp_path / "latest", *more) == Exit.OK
    assert (tmp_path / "latest").resolve() == tmp_path / "one"
    assert_same(tmp_path / "one", whole(*more))


def test_a_resume_in_fp16_of_a_run_in_fp32(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `auto` means follows the device, which may change; that is written down."""
    more = ("--max-steps", "6", "--checkpoint-interval", "1")
    train_killed(monkeypatch, 3, data, tmp_path / "run", *more)
    monkeypatch.setattr(check, "begun", lambda *_: None)  # as on another type of device
    chosen = check.Choice("fp16", "", decided=True)
    monkeypatch.setattr(check, "choose", lambda *_, **__: chosen)
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["precision"], record["determinism"]) == ("fp16", "statistical")


def test_a_full_disk_costs_lines_and_not_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "record", full)
    assert tiny.train(data, tmp_path / "run", "--max-steps", "2") == Exit.OK
    assert "metrics.jsonl: a line is lost: No space left" in capsys.readouterr().err


def test_a_finished_run_is_not_trained_again(data: Path, tmp_path: Path) -> None:
    assert tiny.train(data, tmp_path / "run", "--max-steps", "2") == Exit.OK
    with pytest.raises(UserError, match="finished"):
        tiny.train(data, tmp_path / "run", "--max-steps", "2")
    with pytest.raises(UserError, match="--no-resume"):
        tiny.train(data, tmp_path / "run", "--max-steps", "2", "--no-resume")
    with pytest.raises(UserError, match="no run to resume"):
        tiny.train(data, tmp_path / "other", "--max-steps", "2", "--resume")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["checkpoint.tensor:kill:300", "checkpoint.manifest:kill:3", "checkpoint.rename:kill:3",
     "checkpoint.purge:kill:3"],
)  # fmt: skip
def test_kill_9_while_saving(
    fault: str, data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    more = (*HARD, "--num-epochs", "2", "--precision", "fp32")
    killed = tiny.train_process(data, tmp_path / "run", *more, fault=fault)
    assert killed.returncode == -9
    assert not (tmp_path / "run" / "summary.json").exists()
    resumed = tiny.train_process(data, tmp_path / "run", *more)
    assert resumed.returncode == Exit.OK, resumed.stderr
    assert "resuming after step" in resumed.stdout
    assert_same(tmp_path / "run", whole(*more))
    assert not list((tmp_path / "run" / "checkpoints").glob(".tmp-*"))


@pytest.mark.slow
def test_a_signal_finishes_the_step_and_saves(
    data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    more = (*HARD, "--num-epochs", "2", "--precision", "fp32")
    stopped = tiny.train_process(data, tmp_path / "run", *more, fault="checkpoint.rename:term:5")
    assert stopped.returncode == Exit.PREEMPTED, stopped.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("preempted", Exit.PREEMPTED)
    assert "--run-dir" in stopped.stdout
    assert tiny.train_process(data, tmp_path / "run", *more).returncode == Exit.OK
    assert_same(tmp_path / "run", whole(*more))


def test_a_finished_run_is_trained_further_from_its_weights(data: Path, tmp_path: Path) -> None:
    assert tiny.train(data, tmp_path / "run", "--max-steps", "2") == Exit.OK
    with pytest.raises(UserError, match="this run is finished") as caught:
        tiny.train(data, tmp_path / "run", "--max-steps", "4")
    way_out = str(caught.value).partition("give ")[2].split()
    assert tiny.train(data, tmp_path / "further", "--max-steps", "2", *way_out) == Exit.OK


def test_a_batch_that_makes_no_step_has_a_way_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--max-steps", "4", "--checkpoint-interval", "1", "--batch-size", "2")
    train_killed(monkeypatch, 2, data, tmp_path / "run", *small)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    config = resume.load_config(tmp_path / "run")
    large = resume.with_batch(config, 4, 4)
    assert record["effective_batch"] == 2
    with pytest.raises(UserError, match="1 rank with --batch-size 4 cannot make the 2 seq") as one:
        resume.keep_effective_batch(large, tmp_path / "run", 1)
    assert str(one.value).endswith("give --batch-size 2")
    batch = int(str(one.value).rpartition(" ")[2])
    kept = resume.keep_effective_batch(resume.with_batch(config, batch, batch), tmp_path / "run", 1)
    assert (kept.train.batch_size, kept.train.gradient_accumulation) == (2, 1)
    with pytest.raises(UserError, match="the number of ranks must divide 2"):
        resume.keep_effective_batch(config, tmp_path / "run", 3)


@pytest.mark.slow
def test_a_run_directory_alone_names_how_its_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "4", "--checkpoint-interval", "1")
    train_killed(monkeypatch, 2, data, tmp_path / "run", *more)
    with pytest.raises(UserError, match="resume it with all its flags: ") as caught:
        tiny.main(["--run-dir", str(tmp_path / "run"), "--data-dir", str(tmp_path / "none")])
    command = shlex.split(str(caught.value).rpartition("flags: ")[2])
    assert tiny.main(command[2:]) == Exit.OK
