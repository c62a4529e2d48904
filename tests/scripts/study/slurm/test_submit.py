"""A matrix that is submitted, and its tasks, with programs of Slurm that the test answers for."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from gpt2.config.errors import Exit, UserError
from scripts import matrix
from scripts.study import actions, claims, owners, process, runner
from scripts.study.claims import Claims, Owner
from scripts.study.folder import MatrixFolder
from scripts.study.records import Begin, Refused
from scripts.study.slurm import submission, task
from scripts.study.slurm.submission import submission_in
from scripts.watching.view import WatchedMatrix
from tests.support.fake_matrix import TRAIN
from tests.support.fake_slurm import FakeSlurm

pytestmark = pytest.mark.slow


class Study:
    """A matrix of four cells and its folder."""

    def __init__(self, folder: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.slurm, self.capsys = folder, slurm, capsys
        self.out = folder / "out"
        meta = {"splits": {"train": {"tokens": 1000}}, "tokenizer": {"vocab_size": 9}}
        (folder / "text").mkdir()
        (folder / "text" / "meta.json").write_text(json.dumps(meta))
        self.lines = (
            "DATASET_TEXT=y", f'DATA_DIR="{folder}"', "MAX_STEPS=30", "DEVICE_CPU=y",
            'MATRIX_SEEDS="1 2"', 'MATRIX_PRUNING_METHODS="none"', "MATRIX_RUNNER_SLURM=y",
        )  # fmt: skip
        self.said = ""

    def __call__(self, *more: str, lines: tuple[str, ...] = ()) -> int:
        config = self.folder / "config"
        config.write_text("".join(f"CONFIG_{line}\n" for line in (*self.lines, *lines)))
        try:
            return matrix.main(["--config", str(config), "--out", str(self.out), *more])
        finally:
            self.said = self.capsys.readouterr().out

    def task(self) -> int:
        """Be a task, which finds its place in the environment."""
        try:
            return matrix.main(["--out", str(self.out), "--task"])
        finally:
            self.said = self.capsys.readouterr().out

    def status(self) -> str:
        matrix.main(["--out", str(self.out), "--status"])
        return self.capsys.readouterr().out


@pytest.fixture
def study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Study:
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    monkeypatch.setattr(actions, "TRAIN", TRAIN)
    monkeypatch.setattr(actions, "REPORT", tmp_path / "no report")
    monkeypatch.setattr(runner, "_LOOK", 0.01)
    monkeypatch.setattr(process, "GRACE", 0.3)
    monkeypatch.setattr(claims, "BEAT", 0.2)
    monkeypatch.setattr(owners, "_LOOK", 0.05)
    monkeypatch.setattr(task, "_PATIENCE", 0.1)
    for name, value in (
        ("SLURM_JOB_ID", "9"), ("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "2"),
        ("SLURM_JOB_NODELIST", "node3"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    return Study(tmp_path, fake, capsys)


def test_what_is_left_is_submitted_and_a_task_runs_it(study: Study) -> None:
    lines = ('MATRIX_SLURM_ACCOUNT="mine"', "MATRIX_SLURM_CPUS=2")
    assert study("--array", "3", "--partition", "gpu", "--time-limit", "2h", lines=lines) == 0
    assert "submitted 4 cells as job 7, 3 tasks" in study.said
    path = study.out / "slurm" / "matrix.sh"
    assert study.slurm.log("sbatch") == [f"--parsable --array=0-2 {path}"]
    text = path.read_text()
    for line in ("time=120:00", "partition=gpu", "account=mine", "cpus-per-task=2", "requeue"):
        assert f"\n#SBATCH --{line}\n" in text
    assert "gres" not in text  # the cells run on the CPU
    assert submission_in(study.out)
    record = MatrixFolder(study.out).matrix()
    assert (record.threads, record.gpus) == (2, ())
    assert "no task has written here: the nodes may not share" in study.status()
    study.slurm.jobs(("7_[0-2]", 0, "PENDING", "0-2"))
    assert "Slurm: 3 pending (Priority)" in study.status()
    assert study.task() == 0
    assert len(list(study.out.glob("cells/*/summary.json"))) == 4
    assert [path.name for path in study.out.glob("journal/*")] == ["node3-7_2.0.jsonl"]
    shown = study.status()
    assert "4 finished" in shown
    assert Claims(study.out).held() == {}
    # Again: there is nothing to do, and a runner on this machine goes on with the same folder.
    study.slurm.jobs()
    assert study("--array", "3") == 0
    assert "all cells have finished" in study.said
    assert len(study.slurm.log("sbatch")) == 1
    assert study("--runner", "local") == 0


@pytest.mark.parametrize(
    ("more", "lines", "said"),
    [
        (("--partition", "gqu"), (), "PARTITION=gqu: there is no such partition"),
        (("--array", "64"), (), "ARRAY=64: this site takes 32 tasks in an array .* ARRAY=32"),
        (("--time-limit", "8m"), (), "--time-limit: 8m is too short"),
        (("--gpus", "0"), (), "GPUS= has no effect with RUNNER=slurm: MATRIX_SLURM_GPUS"),
        (("--jobs", "2"), (), "JOBS=2: the cells of a task divide its cores.*MATRIX_SLURM_CPUS"),
        (
            (),
            ("MATRIX_SLURM_SIGNAL=10", "MODEL_GPT2_MEDIUM=y"),
            "MATRIX_SLURM_SIGNAL=10: a checkpoint of 4.85 GB takes about",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_submitted(
    more: tuple[str, ...], lines: tuple[str, ...], said: str, study: Study
) -> None:
    with pytest.raises(UserError, match=said):
        study(*more, lines=lines)
    assert study.slurm.log("sbatch") == []
    assert not study.out.exists()


def test_without_sbatch(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(study.folder))
    with pytest.raises(UserError, match="sbatch is not on the PATH"):
        study()
    assert not study.out.exists()


def test_what_sbatch_refuses_is_passed_on(study: Study) -> None:
    (study.slurm.folder / "refuse").write_text(
        "sbatch: error: Batch job submission failed: Requested time limit is invalid\n"
    )
    with pytest.raises(UserError, match=r"^sbatch: Batch job submission failed: Requested time"):
        study()
    (study.slurm.folder / "refuse").unlink()
    assert study() == 0  # nothing is lost, and nothing is in the way


def test_two_submissions_of_one_matrix(study: Study) -> None:
    assert study() == 0
    study.slurm.jobs(("7_[1-3]", 0, "PENDING", "1-3"), ("7_0", 0, "RUNNING", "0"))
    name = submission.name_in(study.out)
    for more in ((), ("--runner", "local"), ("--rerun", "failed")):
        with pytest.raises(
            UserError, match=f"1 running, 3 pending .Priority.: .*scancel --name={name}"
        ):
            study(*more)
    # A task can outlive its job, on a node that Slurm has lost: other tasks leave its cell alone.
    study.slurm.jobs()
    task = Claims(study.out, Owner(host="node1", job="7_0"))
    assert task.take("adamw-none-seed1")
    assert WatchedMatrix(study.out).look().runner == "1 tasks of Slurm"
    for more in (("--runner", "local"), ("--rerun", "failed")):
        with pytest.raises(UserError, match="job 7_0 on node1 runs adamw-none-seed1, or did a mom"):
            study(*more)
    assert study() == 0
    assert len(study.slurm.log("sbatch")) == 2
    # Killed, it counts as gone after a minute, since squeue does not list it.
    path = Claims(study.out).latest()["adamw-none-seed1"].path
    os.utime(path, (time.time() - 90, time.time() - 90))
    assert study("--rerun", "failed") == 0


@pytest.mark.parametrize("what", ["code", "versions", "data", "folder", "runner"])
def test_a_node_that_is_not_fit_takes_no_cell(
    what: str, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study() == 0
    said, held = "", None
    if what == "code":
        monkeypatch.setattr(submission, "code_hash", lambda: "another")
        said = "job 7_2 on node3: gpt2/ is not what it was at the submission"
    elif what == "versions":
        known = submission.versions()
        monkeypatch.setattr(submission, "versions", lambda: {**known, "torch": "1.0"})
        was = re.escape(known["torch"])
        said = f"job 7_2 on node3: torch is 1.0 here and was {was} at the submission"
    elif what == "data":
        (study.folder / "text" / "meta.json").write_text("{}")
        said = "text holds other data here than at the submission"
    elif what == "folder":
        (study.out / "slurm" / "submission.json").unlink()
        said = "does not see a submission in .* that all nodes share"
    else:
        held = MatrixFolder(study.out)
        held.open()
        said = "in use by process .* which runs it without Slurm"
    with pytest.raises(UserError, match=said):
        study.task()
    if held:
        held.close()
    assert not list(study.out.glob("cells/*"))
    refused = [one for one in MatrixFolder(study.out).journal() if isinstance(one, Refused)]
    assert len(refused) == (what != "folder")
    if refused:
        assert "refused on node3: " in study.status()


def test_failed_cells_are_tried_again_by_the_next_submission(study: Study) -> None:
    faults = study.folder / "faults"
    os.environ["FAKE_FAULTS"] = str(faults)
    try:
        faults.write_text('{"adamw-none-seed1": ["exit:3"], "adamwspam-none-seed1": ["exit:5"]}')
        assert study() == 0
        assert study.task() == Exit.BUG  # of two kinds
        assert study.task() == Exit.BUG  # a task that is requeued does not try again
        assert len(list(study.out.glob("attempts-*"))) == 4
        faults.write_text("{}")
        assert study() == 0
        assert "submitted 1 cells as job 7, 1 tasks" in study.said  # what diverged would again
        assert study.task() == Exit.DIVERGED
    finally:
        del os.environ["FAKE_FAULTS"]
    begun = [one for one in MatrixFolder(study.out).journal() if isinstance(one, Begin)]
    assert len(begun) == 2


def test_a_task_whose_time_is_nearly_up_takes_no_cell(study: Study) -> None:
    assert study("--time-limit", "1h") == 0
    (study.slurm.folder / "left").write_text("3:00\n")
    one = submission_in(study.out)
    assert one
    assert task.SlurmTask(one).enough()
    assert study.task() == Exit.PREEMPTED
    assert not list(study.out.glob("cells/*/summary.json"))
