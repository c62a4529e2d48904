"""A matrix under a real Slurm: interruptions of every kind cost steps, and no result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.study.slurm.submission import active
from tests.support import tiny, tiny_matrix
from tests.support.slurm_cluster import Cluster, cluster, missing
from tests.support.slurm_kills import CELLS, KINDS, Work, torment

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm can be started here: {missing()}"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start a cluster of four nodes, whose programs are found by what it sets."""
    folder = tmp_path_factory.mktemp("slurm") / "c"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, cluster(folder) as found:
        patch.setenv("SLURM_CONF", found.environment["SLURM_CONF"])
        patch.setenv("PATH", found.environment["PATH"])
        yield found


def wait(ready: object, seconds: float = 90.0) -> None:
    assert callable(ready)
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not after {seconds} s"
        time.sleep(0.3)


def small(folder: Path, slurm: Cluster, *lines: str) -> Work:
    """Return a matrix of twelve cells that take seconds, with a stand-in for train.py."""
    tiny.make_data(folder / "data")
    config = tiny_matrix.config(folder / "data", "MAX_STEPS=30", *CELLS, *lines)
    (folder / "config").write_text(config)
    return Work(slurm, folder / "config", folder / "out")


def test_four_interruptions_change_no_result(slurm: Cluster, tmp_path: Path) -> None:
    tiny.make_data(tmp_path / "data")
    config = tiny_matrix.config(tmp_path / "data", "MAX_STEPS=300", *CELLS)
    (tmp_path / "config").write_text(config)
    work, wrong = torment(slurm, tmp_path, KINDS, seed=1, pause=12.0, limit=300.0)
    assert wrong == []
    assert set(work.done) == set(KINDS)
    status = work.matrix("--status")
    assert "12 finished\nall cells have finished" in status.stdout


@pytest.mark.parametrize("allowed", [True, False])
def test_the_signal_before_the_limit_saves_and_the_rest_goes_on(
    allowed: bool, slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(slurm.environment, "FAKE_PAUSE", "0.3")
    (tmp_path / "site").write_text("" if allowed else "#SBATCH --no-requeue\n")
    work = small(tmp_path, slurm, f'MATRIX_SLURM_LINES="{tmp_path}/site"')
    work.submit()
    wait(lambda: len(list(work.out.glob("cells/*/metrics.jsonl"))) == 4)
    first = {job.number for job in active(work.out)}
    for number in first:
        slurm.say("scancel", "--batch", "--signal=USR1", number)
    wait(lambda: not active(work.out))
    assert work.finished()
    assert work.wrong() == []
    printed = "".join(path.read_text() for path in work.out.glob("slurm/*.txt"))
    assert printed.count("stopped by SIGUSR1; saved") == 4
    assert ("life 1" in printed) is allowed
    assert len(list(work.out.glob("slurm/*_0.txt"))) == (1 if allowed else 5)


def test_what_slurm_itself_refuses(slurm: Cluster, tmp_path: Path) -> None:
    work = small(tmp_path, slurm)
    for flags, said in (
        (("--partition", "nosuch"), "PARTITION=nosuch: there is no such partition"),
        (("--array", "40"), "ARRAY=40: this site takes 32 tasks in an array"),
        (("--time-limit", "3d"), "TIME_LIMIT: partition tests gives a job at most 1-00:00:00"),
    ):
        done = work.matrix("--runner", "slurm", *flags)
        assert done.returncode == 2, done.stdout
        assert done.stderr.startswith(f"matrix.py: error: {said}"), done.stderr
        assert done.stderr.count("\n") == 1
    on_gpu = tmp_path / "gpu"
    on_gpu.write_text(work.config.read_text().replace("DEVICE_CPU", "DEVICE_AUTO"))
    done = Work(slurm, on_gpu, work.out).matrix("--runner", "slurm")  # these nodes have none
    assert "Invalid generic resource (gres) specification; nothing was submitted" in done.stderr
    assert done.stderr.endswith("MATRIX_SLURM_GPUS=0 asks for no GPU\n")
    assert active(work.out) == []
