"""A matrix at work, with a stand-in for train.py: failures, limits, memory, disk, going on."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.files.lock import holder
from gpt2.machine.host_memory import HostMemory
from scripts import matrix
from scripts.study import actions, description, machine, process, runner, status_line
from scripts.study.folder import MatrixFolder
from scripts.study.machine import Gpu
from scripts.study.memory import make_plans, predicted_memory
from scripts.study.records import Begin, End
from tests.support import tiny
from tests.support.fake_matrix import TRAIN
from tests.support.small_cells import cell_record
from tests.support.terminal import Terminal

pytestmark = pytest.mark.slow

#: Bytes.
GB = 10**9
ONE = 'MATRIX_OPTIMIZERS="adamw"', 'MATRIX_PRUNING_METHODS="none"', 'MATRIX_SEEDS="1"'
DENSE, SPAM = "adamw-none-seed1", "adamwspam-none-seed1"
Run = Callable[..., int]


class Work:
    """A matrix in a folder of its own, run in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.out, self.capsys = folder, folder / "out", capsys
        self.lines = ["DATASET_TEXT=y", f'DATA_DIR="{folder}"', "MAX_STEPS=30", "DEVICE_CPU=y"]
        self.lines.append("MATRIX_CONTROLS=n")
        meta = {"splits": {"train": {"tokens": 1000}}, "tokenizer": {"vocab_size": 9}}
        (folder / "text").mkdir()
        (folder / "text" / "meta.json").write_text(json.dumps(meta))
        self.said = ""

    def __call__(self, *lines: str, more: tuple[str, ...] = (), flags: str = "") -> int:
        config = self.folder / "config"
        config.write_text("".join(f"CONFIG_{line}\n" for line in (*self.lines, *lines)))
        try:
            return matrix.main(
                ["--config", str(config), "--out", str(self.out), *more, "--", *flags.split()]
            )
        finally:
            self.said = self.capsys.readouterr().out

    def faults(self, **cells: list[str]) -> None:
        (self.folder / "faults").write_text(
            json.dumps({name.replace("_", "-"): faults for name, faults in cells.items()})
        )

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        found = [dict(event.as_read) for event in MatrixFolder(self.out).journal()]
        return [line for line in found if not kinds or line["event"] in kinds]

    def finished(self) -> set[str]:
        return {path.parent.name for path in self.out.glob("cells/*/summary.json")}


@pytest.fixture
def work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Work:
    monkeypatch.setattr(actions, "TRAIN", TRAIN)
    monkeypatch.setattr(actions, "REPORT", tmp_path / "no report")
    monkeypatch.setattr(runner, "_LOOK", 0.01)
    monkeypatch.setattr(process, "GRACE", 0.3)
    monkeypatch.setattr(process, "SLOWEST", 1e12)
    monkeypatch.setenv("FAKE_FAULTS", str(tmp_path / "faults"))
    (tmp_path / "faults").write_text("{}")
    return Work(tmp_path, capsys)


@pytest.mark.slow
def test_failures_are_told_apart_and_stop_nobody(work: Work) -> None:
    work.faults(
        adamw_none_seed1=["exit:5"], adamw_none_seed2=["exit:3"], adamw_none_seed3=["kill", "ok"],
        adamw_none_seed4=["bug"], adamw_none_seed5=["ok"],
    )  # fmt: skip
    five = (*ONE[:2], 'MATRIX_SEEDS="1..5"')
    assert work(*five) == Exit.BUG  # of several kinds
    assert work.finished() == {"adamw-none-seed3", "adamw-none-seed5"}
    failed = {line["cell"]: line for line in work.events("failed") if not line["retry"]}
    assert {name: line["kind"] for name, line in failed.items()} == {
        "adamw-none-seed1": "diverged", "adamw-none-seed2": "data", "adamw-none-seed4": "crash",
    }  # fmt: skip
    assert failed["adamw-none-seed1"]["exit_code"] == 5
    assert "ZeroDivisionError: bug" in failed["adamw-none-seed4"]["tail"]
    tries = [line["cell"] for line in work.events("started")]
    assert [tries.count(f"adamw-none-seed{n}") for n in range(1, 6)] == [1, 1, 2, 2, 1]
    assert "killed from outside" in work.said
    assert "| fake_cell.py: error: it befell: exit:3" in work.said
    assert "failed: adamw-none-seed1: diverged" in work.said
    assert "matrix-rerun CELLS=failed" in work.said
    # Again: what may have changed is tried, what diverged is not, what is done is not repeated.
    work.faults(adamw_none_seed1=["ok"])
    assert work(*five) == Exit.DIVERGED
    assert work.finished() == {f"adamw-none-seed{n}" for n in range(2, 6)}
    assert work(*five, more=("--rerun", "failed")) == 0
    assert work(*five) == 0
    assert len(work.finished()) == 5


@pytest.mark.slow
def test_memory_is_met_with_half_the_micro_batch(work: Work) -> None:
    work.faults(adamw_none_seed1=["above:8"], adamwspam_none_seed1=["above:4"])
    flags = "--batch-size 16 --gradient-accumulation 3"
    both = (ONE[1], ONE[2])
    assert work(*both, flags=flags) == Exit.MEMORY
    assert work.finished() == {DENSE}
    command = [line["command"] for line in work.events("started") if line["cell"] == DENSE][-1]
    assert "--batch-size 8 --gradient-accumulation 6 --run-dir " in command
    kinds = [(line["cell"], line["kind"], line["retry"]) for line in work.events("failed")]
    assert kinds == [
        (DENSE, "memory", True), (SPAM, "memory", True), (SPAM, "memory", False),
    ]  # fmt: skip


def test_an_odd_micro_batch_cannot_be_halved(work: Work) -> None:
    work.faults(adamw_none_seed1=["above:2"])
    assert work(*ONE, flags="--batch-size 5") == Exit.MEMORY
    assert len(work.events("started")) == 1


@pytest.mark.slow
def test_a_hung_cell_is_ended_and_goes_on(work: Work) -> None:
    work.faults(adamw_none_seed1=["hang", "ok"])
    assert work(*ONE, 'MATRIX_TIMEOUT="1"') == 0
    (failed,) = work.events("failed")
    assert (failed["kind"], failed["retry"]) == ("hang", True)
    assert "not finished after 1 s" in failed["reason"]
    assert [line["going_on"] for line in work.events("started")] == [False, True]


@pytest.mark.slow
def test_a_cell_that_is_stopped_from_outside_goes_on(work: Work) -> None:
    work.faults(adamw_none_seed1=["term", "ok"])
    assert work(*ONE) == 0
    assert [line["event"] for line in work.events()] == [
        "begin", "started", "stopped", "started", "finished", "end",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside(work: Work) -> None:
    work.faults(adamw_none_seed1=["exit:4", "ok"])
    assert work(*ONE) == 0
    assert (work.out / "set-aside" / f"{DENSE}.1" / "checkpoints").is_dir()
    assert [line["going_on"] for line in work.events("started")] == [False, False]


@pytest.mark.slow
def test_seeds_can_be_added_and_options_cannot_change(work: Work) -> None:
    assert work(*ONE) == 0
    assert work(*ONE[:2], 'MATRIX_SEEDS="1 2"') == 0
    assert len(work.events("started")) == 2
    with pytest.raises(UserError, match="adamw-none-seed1 differs in --weight-decay"):
        work(*ONE, 'WEIGHT_DECAY="0.2"')
    assert work(*ONE) == 0
    assert "1 runs in it are no longer in the matrix; they stay" in work.said
    assert len(work.finished()) == 2


def written(path: Path) -> tuple[int, int]:
    """Say which file it is and when it was last written: reading may change its other times."""
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.mark.slow
@pytest.mark.parametrize("move", [shutil.copytree, shutil.move], ids=["copied", "moved"])
def test_a_matrix_and_its_data_may_be_moved_or_copied(
    move: Callable[[Path, Path], Any], work: Work
) -> None:
    two = (*ONE[:2], 'MATRIX_SEEDS="1 2"')
    work.faults(adamw_none_seed2=["exit:5"])
    assert work(*two) == Exit.DIVERGED
    elsewhere = work.folder / "another disk"
    elsewhere.mkdir()
    move(work.out, elsewhere / "out")
    move(work.folder / "text", elsewhere / "text")
    work.out = elsewhere / "out"
    work.lines[1] = f'DATA_DIR="{elsewhere}"'
    work.faults()
    assert work(*two, more=("--status",)) == 0
    assert "1 finished, 1 failed" in work.said
    assert work(*two, more=("--rerun", "failed")) == 0
    before = written(work.out / "cells" / DENSE / "summary.json")
    assert work(*two) == 0
    assert written(work.out / "cells" / DENSE / "summary.json") == before
    assert len(work.finished()) == 2
    with pytest.raises(UserError, match="adamw-none-seed1 differs in --weight-decay"):
        work(*two, 'WEIGHT_DECAY="0.2"')


@pytest.mark.slow
def test_a_finished_cell_that_is_run_again_is_set_aside(work: Work) -> None:
    assert work(*ONE) == 0
    before = (work.out / "cells" / DENSE / "summary.json").read_text()
    with pytest.raises(UserError, match="no cell is called 'adamw-nonee-seed1'; did"):
        work(*ONE, more=("--rerun", "adamw-nonee-seed1"))
    assert work(*ONE, more=("--rerun", "*-none-*")) == 0
    assert work.finished() == set()
    assert (work.out / "set-aside" / f"{DENSE}.1" / "summary.json").read_text() == before
    assert work(*ONE) == 0
    assert work.finished() == {DENSE}


@pytest.mark.slow
def test_what_another_version_left_is_refused(work: Work) -> None:
    assert work(*ONE) == 0
    path = work.out / "matrix.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="has format 2, this program reads format 1") as error:
        work(*ONE)
    assert error.value.code == Exit.CHECKPOINT
    assert work.finished() == {DENSE}


@pytest.mark.slow
def test_other_sources_are_said(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    assert work(*ONE) == 0
    monkeypatch.setattr(actions, "code_hash", lambda: "another")
    assert work(*ONE) == 0
    assert "gpt2/ has changed since the earlier runs" in work.said


def test_a_folder_of_somebody_else_is_refused(work: Work) -> None:
    work.out.mkdir()
    (work.out / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not a matrix of this program"):
        work(*ONE)
    with pytest.raises(UserError, match="holds no matrix"):
        work(*ONE, more=("--status",))
    work.out = work.out.with_name("another")
    assert work(*ONE) == 0


@pytest.mark.slow
def test_a_cell_that_another_process_runs_is_waited_for(work: Work) -> None:
    run = work.out / "cells" / DENSE
    run.mkdir(parents=True)
    (work.out / ".lock").touch()
    script = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX);"
        "f.write('process 1 on here'); f.flush(); print('held', flush=True); time.sleep(5)"
    )
    command = [sys.executable, "-c", script, str(run / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert work(*ONE) == 0
        assert other.wait() == 0
    assert f"{DENSE}: process 1 on here still runs it; waiting for it" in work.said
    assert len(work.events("started")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep", "steps"), [("last", [30]), ("best", [20]), ("none", []), ("all", [10, 20, 30])]
)
def test_checkpoints_of_finished_cells_are_thinned(keep: str, steps: list[int], work: Work) -> None:
    assert work(*ONE, more=("--keep", keep)) == 0
    parent = work.out / "cells" / DENSE
    assert sorted(parent.glob("checkpoints/step-*")) == [
        parent / "checkpoints" / f"step-{step:08d}" for step in steps
    ]
    assert {"summary.json", "metrics.jsonl", "config"} <= {p.name for p in parent.iterdir()}


@pytest.mark.slow
def test_each_optimizer_runs_on_with_its_own_rate(work: Work) -> None:
    lines = ('MATRIX_AXES="learning-rate=1e-3,2e-3"', 'MATRIX_SPARSITIES="0.5"', 'MATRIX_SEEDS="1"')
    assert work(*lines, 'MATRIX_TUNING_SEEDS="7 8"') == 0
    (chosen,) = work.events("chosen")
    assert len(chosen["rates"]) == 2
    for one in chosen["rates"]:
        means = one["losses"]
        assert one["rate"] == min(means, key=means.get)
        for rate, mean in means.items():
            runs = work.out.glob(
                f"cells/{one['for']['optimizer']}-none-learning-rate={rate}-seed[78]"
            )
            losses = [json.loads((run / "summary.json").read_text())["val_loss"] for run in runs]
            assert sum(losses) / 2 == pytest.approx(mean)
        reported = {n for n in work.finished() if n.startswith(one["for"]["optimizer"] + "-")}
        assert {n for n in reported if n.endswith("seed1")} == {
            f"{one['for']['optimizer']}-{method}-learning-rate={one['rate']}-seed1"
            for method in ("none", "magnitude-0.5")
        }
    assert len(work.finished()) == 2 * 2 * 2 + 2 * 2
    assert len(work.events("skipped")) == 4
    assert work(*lines, 'MATRIX_TUNING_SEEDS="7 8"') == 0
    assert len(work.events("skipped")) == 4
    assert len(work.events("chosen")) == 1


@pytest.mark.slow
def test_each_row_runs_on_with_its_own_trial(work: Work) -> None:
    lines = ('MATRIX_TUNE="learning-rate=log:1e-3..1e-2; weight-decay=0.1,0.3"', *ONE[:1])
    lines += ('MATRIX_SPARSITIES="0.5"', 'MATRIX_SEEDS="1"', "MATRIX_TUNE_TRIALS=3")
    assert work(*lines, 'MATRIX_TUNING_SEEDS="7 8"') == 0
    (chosen,) = work.events("chosen")
    assert [one["for"]["pruning-method"] for one in chosen["rates"]] == ["none", "magnitude"]
    for one, row in zip(chosen["rates"], ("none", "magnitude-0.5"), strict=True):
        means = one["losses"]
        assert len(means) == 3
        assert one["rate"] == min(means, key=means.get)
        trial = one["rate"].replace(", ", "-").replace(" ", "=")
        reported = {name for name in work.finished() if name.endswith("seed1") and row in name}
        assert reported == {f"adamw-{row}-{trial}-seed1"}
    assert len(work.finished()) == 2 * 3 * 2 + 2
    assert len(work.events("skipped")) == 2 * 2
    tuning = json.loads((work.out / "matrix.json").read_text())["tuning"]
    assert tuning["space"] == {"learning-rate": "log:1e-3..1e-2", "weight-decay": "0.1,0.3"}
    assert (tuning["trials"], tuning["sampler_seed"]) == (3, 0)
    assert work(*lines, 'MATRIX_TUNING_SEEDS="7 8"') == 0
    assert len(work.events("chosen")) == 1


@pytest.mark.slow
def test_the_plan_says_all_before_anything_runs(work: Work) -> None:
    lines = ('MATRIX_OPTIMIZERS="adamw sgd"', 'MATRIX_PRUNING_METHODS="none state"')
    assert work(*lines, more=("--plan", "--no-probe")) == 0
    assert "matrix study: 20 runs in" in work.said
    assert "left out:\n  sgd-state" in work.said
    assert "0 of 20 runs are done" in work.said
    assert not work.out.exists()
    assert work(*lines, more=("--plan",)) == 0
    assert set(MatrixFolder(work.out).probes()) == {"adamw-none", "adamw-state", "sgd-none"}
    assert "the others take about" in work.said
    assert not list((work.out / "cells").iterdir())


def test_the_status_is_read_without_a_lock(work: Work) -> None:
    work.faults(adamw_none_seed1=["exit:5"])
    assert work(ONE[1], ONE[2]) == Exit.DIVERGED
    with (work.out / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert work(ONE[1], ONE[2], more=("--status",)) == 0
    assert "1 finished, 1 failed" in work.said
    assert (
        "failed adamw-none-seed1: diverged (exit code 5) fake_cell.py: error: it bef" in work.said
    )
    assert f"run by process {os.getpid()} on " in work.said


@pytest.mark.slow
def test_without_config_the_status_is_of_the_newest_matrix(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (matrix, description):
        monkeypatch.setattr(module, "REPOSITORY", work.folder)
    with pytest.raises(UserError, match=r"no \.config:"):
        matrix.main(["--status"])
    work.out = work.folder / "runs" / "matrix-older"
    assert work(*ONE) == 0
    work.out = work.folder / "runs" / "matrix-newer"
    assert work(ONE[0], ONE[1], 'MATRIX_SEEDS="1 2"') == 0
    assert matrix.main(["--status"]) == 0
    said = work.capsys.readouterr().out
    assert f"in {work.out}: 2 finished" in said
    (work.folder / ".config").write_text("")  # of it no run has begun
    assert matrix.main(["--status"]) == 0
    assert f"in {work.out}: 2 finished" in work.capsys.readouterr().out
    compared = MatrixFolder(work.folder / "runs" / "matrix-compare-a-b-123456")
    compared.open()
    assert matrix.main(["--status"]) == 0
    assert f"{compared.path}: measuring, by process {os.getpid()}" in work.capsys.readouterr().out
    compared.close()
    assert "validation loss" in said  # the table of results
    assert re.search(r"^adamw-none +2/2 +0[.]\d{4} ", said, re.MULTILINE)


@pytest.mark.slow
def test_a_terminal_shows_the_cells_that_run_and_keeps_the_lines(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(status_line, "INTERVAL", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    assert work(ONE[0], ONE[1], 'MATRIX_SEEDS="1 2"') == 0
    said = terminal.getvalue()
    assert re.search(r"\r\x1b\[Kadamw-none-seed1  step \d+/30  loss 0", said)
    lines = [line.rpartition("\x1b[K")[2] for line in said.split("\n")]
    assert sum("] adamw-none-seed" in line for line in lines) == 2  # of what finished
    assert not any("step" in line for line in lines)


def test_missing_data_are_named_before_the_first_run(work: Work) -> None:
    (work.folder / "text" / "meta.json").unlink()
    with pytest.raises(
        UserError, match=r"holds no tokens: .* --dataset text --input FILE_OR_FOLDER --tokenizer"
    ) as error:
        work(*ONE)
    assert error.value.code == Exit.DATA
    assert not work.out.exists()


@pytest.mark.slow
def test_a_matrix_over_the_disk_is_refused(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [GB]
    monkeypatch.setattr(machine, "disk_free", lambda _: free[0])
    with pytest.raises(UserError, match=r"the matrix needs about .* 1\.00 GB are free") as error:
        work(*ONE, flags="--model gpt2")
    assert error.value.code == Exit.CONFIG
    assert not work.finished()
    free[0] = 100 * GB
    two = (*ONE[:2], 'MATRIX_SEEDS="1 2"')

    def shrinking(path: Path) -> int:
        return 0 if list(path.glob("cells/*/summary.json")) else 100 * GB

    monkeypatch.setattr(machine, "disk_free", shrinking)
    with pytest.raises(UserError, match="0 MB of disk are free, and a cell needs") as error:
        work(*two)
    assert error.value.code == Exit.CHECKPOINT
    assert work.finished() == {DENSE}
    monkeypatch.setattr(machine, "disk_free", lambda _: 100 * GB)
    assert work(*two) == 0


@pytest.mark.slow
def test_cells_of_two_gpus_run_at_once(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu(n, "fake", 8 * GB, 8 * GB, n) for n in "01"])
    work.lines.remove("DEVICE_CPU=y")
    assert work(ONE[1], 'MATRIX_SEEDS="1 2"', more=("--gpus", "0,1")) == 0
    order = [(line["event"], line.get("gpu")) for line in work.events()]
    assert order[1:3] == [("started", "0"), ("started", "1")]
    commands = [line["command"] for line in work.events("started")]
    assert commands[0].startswith(
        "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0 python3 gpt2/train.py --"
    )
    assert not any(line["shared"] for line in work.events("finished"))
    with pytest.raises(UserError, match="GPUS=0,7: no GPU 7; there are 0, 1"):
        work(*ONE, more=("--gpus", "0,7"))
    with pytest.raises(UserError, match="GPUS=0: the cells run on the CPU"):
        work(*ONE, "DEVICE_CPU=y", more=("--gpus", "0"))


def test_a_matrix_names_no_gpu_for_all_cells(work: Work) -> None:
    work.lines.remove("DEVICE_CPU=y")
    with pytest.raises(UserError, match=r"--device cuda:1: each cell .* --device cuda and GPUS=1"):
        work(*ONE, "DEVICE_CUDA=y", "DEVICE_INDEX=1")


@pytest.mark.slow
def test_memory_of_a_busy_card_is_waited_for(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def busy() -> list[Gpu]:
        looks.append(time.monotonic())
        return [Gpu("0", "fake", 8 * GB, (1 if len(looks) < 4 else 8) * GB, "u")]

    monkeypatch.setattr(machine, "gpus", busy)
    monkeypatch.setattr(machine, "gpu_users", lambda _: "process 77 (game), 7168 MiB")
    monkeypatch.setattr("scripts.study.admission._LOOK_AGAIN", 0.05)
    work.lines.remove("DEVICE_CPU=y")
    assert work(*ONE) == 0
    assert "waiting up to 3600 s: GPU 0 has 1.00 GB of 8.00 GB free, a cell needs 4.00 GB" in (
        work.said
    )
    assert "(process 77 (game), 7168 MiB)" in work.said
    assert "GPU 0 has memory again" in work.said
    looks.clear()
    with pytest.raises(UserError, match="waited 0 s for it") as error:
        work(*ONE[:2], 'MATRIX_SEEDS="1 2"', "MATRIX_WAIT=0")
    assert error.value.code == Exit.MEMORY


@pytest.mark.slow
def test_more_cells_at_once_are_marked_and_share_the_cores(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(description, "cores", lambda: 6)
    assert work(ONE[1], 'MATRIX_SEEDS="1 2"', more=("--jobs", "2")) == 0
    assert all(line["shared"] for line in work.events("finished"))
    assert all("--num-threads 3" in line["command"] for line in work.events("started"))
    assert "do not compare their speeds" in work.said
    assert work(ONE[1], 'MATRIX_SEEDS="1 2 3"') == 0  # one at a time now, and the same threads
    assert "--num-threads 3" in work.events("started")[-1]["command"]
    # What a cell takes was planned, so two begin at once.
    assert [line["event"] for line in work.events()][:3] == ["begin", "started", "started"]


def test_a_matrix_over_the_memory_is_refused(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    assert work(*ONE, more=("--plan",)) == 0
    monkeypatch.setattr(machine, "host_memory", lambda: HostMemory("", 2**19, 2**19))
    with pytest.raises(UserError, match="cells of adamw-none take 1 MB, and the host") as error:
        work(*ONE)
    assert error.value.code == Exit.MEMORY
    assert not work.finished()


def test_a_matrix_that_cannot_fit_is_refused_by_its_plan(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"needed": 3 * 10**9, "pool_most": 2 * 10**9, "fixes": ["--batch-size 4"]}
    monkeypatch.setenv("FAKE_PLAN", json.dumps(told))
    said = "cells of adamw-none need 3.00 GB, and this machine gives at most 2.00 GB: it fits with"
    with pytest.raises(UserError, match=f"{said} --batch-size 4") as error:
        work(*ONE)
    assert error.value.code == Exit.MEMORY
    assert not work.events("started")
    monkeypatch.setenv("FAKE_PLAN", json.dumps({**told, "pool_most": 4 * 10**9}))
    assert work(*ONE) == 0  # the memory has been added


@pytest.mark.parametrize("text", ['{"k": 1}', '{"k": {"host": 1}}', "[]"])
def test_damaged_plans_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "plans.json").write_text(text)
    with pytest.raises(UserError, match=r"plans\.json"):
        MatrixFolder(tmp_path).plans()


@pytest.mark.slow
def test_a_plan_that_fails_stops_nothing(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PLAN", '"broken"')
    assert work(ONE[1], 'MATRIX_SEEDS="1 2"', more=("--jobs", "2")) == 0
    assert "the memory of adamw-none is not known before it runs: exit code 2" in work.said
    # Until one has shown what a cell takes, there is one.
    assert [line["event"] for line in work.events()][:6] == [
        "begin", "started", "finished", "started", "started", "finished",
    ]  # fmt: skip


@pytest.mark.slow
def test_train_plans_what_the_matrix_asks_for(tmp_path: Path) -> None:
    data = tiny.make_data(tmp_path)
    flags = tiny.flags(data, tmp_path / "run")[:-2]
    folder = MatrixFolder(tmp_path / "m")
    folder.open()
    cells = [cell_record(kind="one", name="one-seed1", flags=tuple(flags))]
    make_plans(folder, cells, actions.TRAIN, tiny.REPOSITORY, print)
    folder.close()
    (peak,) = predicted_memory(folder, cells).values()
    assert peak.device == 0
    assert 2e8 < peak.host < 3e8  # Python, torch, and next to nothing


@pytest.mark.slow
def test_more_cells_than_memory_do_not_run_at_once(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for one cell of a MiB over what must stay free, a tenth of the machine.
    memory = HostMemory("", 2 * GB, 2 * GB // 10 + 2 * 2**20)
    monkeypatch.setattr(machine, "host_memory", lambda: memory)
    assert work(ONE[1], 'MATRIX_SEEDS="1 2"', more=("--jobs", "2")) == 0
    events = [line["event"] for line in work.events("started", "finished")]
    assert events == ["started", "finished"] * 4


def test_nvidia_smi_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\ncase \"$1\" in *gpu=*) echo '0, GPU-a, NVIDIA L4, 23034, 500';; "
        "*) echo 'GPU-a, 77, /bin/game, 22000'; echo 'GPU-b, 78, x, 1';; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machine.gpus() == [Gpu("0", "NVIDIA L4", 23034 * 2**20, 500 * 2**20, "GPU-a")]
    assert machine.gpu_users("GPU-a") == "process 77 (/bin/game), 22000 MiB"
    program.write_text("#!/bin/sh\necho '0, GPU-a, NVIDIA GB10, [N/A], [N/A]'\n")
    assert machine.gpus() == [Gpu("0", "NVIDIA GB10", None, None, "GPU-a")]
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed; exit 9\n")
    assert machine.gpus() == []


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    folder = MatrixFolder(tmp_path / "m")
    folder.open()
    folder.write(Begin(cells=1))
    folder.close()
    with (folder.path / "journal.jsonl").open("ab") as file:
        file.write(b'{"event": "fini')
    folder.open()
    folder.write(End(exit_code=0))
    assert [event.EVENT for event in folder.journal()] == ["begin", "end"]
    assert holder(folder.path).startswith(f"process {os.getpid()} on ")
    folder.close()
    assert holder(folder.path) == ""


def test_the_report_is_made_at_the_end(work: Work) -> None:
    assert tiny.REPOSITORY  # the report is a program of its own
    report = work.folder / "report.py"
    report.write_text("import sys, pathlib; pathlib.Path(sys.argv[2], 'made').touch(); sys.exit(3)")
    actions.REPORT = report
    assert work(*ONE) == 3
    assert (work.out / "made").exists()
