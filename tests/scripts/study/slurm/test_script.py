"""The script that sbatch gets: its settings, and what it does when its task ends."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.study.slurm import script
from scripts.study.slurm.script import script_of
from scripts.study.slurm.settings import SlurmSettings
from tests.support.fake_slurm import FakeSlurm

SETTINGS = SlurmSettings(
    partition="", time_limit=5400, array=4, gpus=0, cpus=0, memory="", account="", qos="",
    constraint="", signal=180, lines=(),
)  # fmt: skip


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if "#SBATCH" in line]


def test_what_is_not_given_is_left_to_the_site() -> None:
    assert directives(script_of(SETTINGS, "matrix-m", Path("/a/m"))) == [
        "job-name=matrix-m", "output=/a/m/slurm/%A_%a.txt", "open-mode=append", "time=90:00",
        "signal=B:USR1@180", "nodes=1", "ntasks=1", "requeue",
    ]  # fmt: skip


def test_every_setting_has_its_line_and_those_of_the_site_come_last() -> None:
    given = replace(
        SETTINGS, partition="gpu", gpus=2, cpus=8, memory="32G", account="a", qos="long",
        constraint="a100|h100", lines=("#SBATCH --mail-type=FAIL",),
    )  # fmt: skip
    found = directives(script_of(given, "m", Path("/my 100% data")))
    assert found[1] == 'output="/my 100%% data/slurm/%A_%a.txt"'
    assert found[7:] == [
        "partition=gpu", "gres=gpu:2", "cpus-per-task=8", "mem=32G", "account=a", "qos=long",
        "constraint=a100|h100", "requeue", "mail-type=FAIL",
    ]  # fmt: skip


STUB = """
import os, signal, sys, time
how = os.environ["HOW"]
told = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: told.append(number))
print("ready", *sys.argv[1:], flush=True)
if how == "kill":
    os.kill(os.getpid(), 9)
while how == "wait" and not told:
    time.sleep(0.01)
sys.exit(75 if how in ("wait", "enough") else int(how))
"""
REQUEUE = "requeue 7_2"


@pytest.mark.parametrize(
    ("how", "sent", "requeued"),
    [
        ("0", None, False),
        ("5", None, False),
        ("enough", None, True),
        ("kill", None, True),
        ("wait", signal.SIGUSR1, True),
        ("wait", signal.SIGTERM, False),
    ],
)
@pytest.mark.parametrize("allowed", [True, False])
def test_the_script_requeues_what_is_to_go_on(
    how: str,
    sent: signal.Signals | None,
    requeued: bool,
    allowed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slurm, out = FakeSlurm(tmp_path / "slurm"), tmp_path / "a matrix's"
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(script, "ENTRY", stub)
    if not allowed:
        (slurm.folder / "norequeue").touch()
    path = tmp_path / "matrix.sh"
    path.write_text(script_of(SETTINGS, "matrix-m", out))
    environment = {
        "PATH": f"{slurm.folder}:/usr/bin:/bin", "HOW": how, "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "2",
    }  # fmt: skip
    job = subprocess.Popen(["bash", str(path)], env=environment, stdout=subprocess.PIPE, text=True)
    assert job.stdout
    assert job.stdout.readline() == f"ready --out {out} --task\n"
    if sent:
        job.send_signal(sent)
    said, _ = job.communicate(timeout=60)
    code = {"wait": 75, "enough": 75, "kill": 128 + 9}.get(how)
    assert job.returncode == (int(how) if code is None else code), said
    calls = [call for call in slurm.log("scontrol") if call.startswith("requeue")]
    assert calls == ([REQUEUE] if requeued else [])
    again = slurm.log("sbatch")
    assert again == ([f"--array=0 {out}/slurm/matrix.sh"] if requeued and not allowed else [])
