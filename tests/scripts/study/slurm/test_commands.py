"""The programs of Slurm: what their answers mean, and what is said when they have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from scripts.study.claims import Owner
from scripts.study.slurm import commands
from scripts.study.slurm.commands import (
    FailedError,
    Jobs,
    check_partition,
    jobs_named,
    largest_array,
    need,
    seconds_left,
)
from tests.support.fake_slurm import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    return fake


def test_jobs_and_their_tasks(slurm: FakeSlurm) -> None:
    slurm.jobs(("7_[2-5,9%2]", 0, "PENDING", "2-5,9%2"), ("7_1", 3, "RUNNING", "1"))
    found = jobs_named("m")
    assert [(job.number, job.life, job.state, job.waiting, job.node) for job in found] == [
        ("7_[2-5,9%2]", 0, "PENDING", 5, "node1"),
        ("7_1", 3, "RUNNING", 1, "node1"),
    ]
    assert slurm.log("squeue") == [f"--noheader --name=m --Format={commands._FIELDS}"]


@pytest.mark.parametrize(
    ("owner", "gone"),
    [
        (Owner(host="a", job="7_1", life=3), False),
        (Owner(host="a", job="7_1", life=2), True),  # requeued since
        (Owner(host="a", job="7_2", life=0), True),  # waits for its next life
        (Owner(host="a", job="7_4"), True),
        (Owner(host="a"), None),
    ],
)
def test_who_is_gone(owner: Owner, gone: bool | None, slurm: FakeSlurm) -> None:
    slurm.jobs(("7_1", 3, "RUNNING", "1"), ("7_2", 1, "PENDING", "2"))
    assert Jobs("m").gone(owner) is gone


def test_without_an_answer_nobody_is_gone(slurm: FakeSlurm) -> None:
    (slurm.folder / "jobs").unlink()
    assert Jobs("m").gone(Owner(host="a", job="7_1")) is None
    with pytest.raises(FailedError, match=r"^slurm_load_jobs error: Unable to contact slurm$"):
        jobs_named("m")


def test_slurm_is_not_asked_at_every_turn(slurm: FakeSlurm) -> None:
    jobs = Jobs("m")
    for _ in range(5):
        assert jobs.gone(Owner(host="a", job="7_1"))
    assert len(slurm.log("squeue")) == 1


def test_partitions_and_the_largest_array(slurm: FakeSlurm) -> None:
    check_partition("gpu", 10**6)
    check_partition("", 86400)
    with pytest.raises(UserError, match=r"PARTITION=gpus: there is no such partition.*tests, gpu"):
        check_partition("gpus", 60)
    for name in ("", "tests"):
        with pytest.raises(UserError, match=r"TIME_LIMIT: partition tests .* at most 1-00:00:00"):
            check_partition(name, 86401)
    assert largest_array() == 32


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("3:00", 180.0), ("1:02:03", 3723.0), ("2-00:00:01", 172801.0), ("UNLIMITED", None)],
)
def test_the_time_that_is_left(told: str, seconds: float | None, slurm: FakeSlurm) -> None:
    (slurm.folder / "left").write_text(told + "\n")
    assert seconds_left("7_1") == seconds
    assert slurm.log("squeue") == ["--noheader --job=7_1 --format=%L"]


@pytest.mark.usefixtures("slurm")
def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need("sbatch", "squeue")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"sbatch is not on the PATH: log in .* RUNNER=local"):
        need("sbatch")
    assert Jobs("m").gone(Owner(host="a", job="7_1")) is None
    assert seconds_left("7") is None
