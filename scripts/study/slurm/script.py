"""The script for sbatch: the site's settings, and the start of one task."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from gpt2.config.schema import REPOSITORY
from scripts.study.slurm.settings import SlurmSettings

#: The program of a task, followed by --out and --task.
ENTRY = REPOSITORY / "scripts" / "matrix.py"
#: Restarts of a task that was killed; one that ran out of time always restarts.
_DEATHS = 20

_BODY = """
# The task saves and ends at SIGUSR1, which comes before the time limit, and is then requeued; so is
# one that was killed. At SIGTERM (scancel, preemption, a requeue) it saves, and Slurm decides.
cd {here} || exit 2
{task} &
task=$!
trap 'kill -USR1 "$task" 2>/dev/null' USR1
trap 'ended=yes; kill -TERM "$task" 2>/dev/null' TERM
while kill -0 "$task" 2>/dev/null; do wait "$task"; done
wait "$task"
code=$?
if [ "$code" -eq 75 ]; then again=yes; fi
if [ "$code" -gt 128 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {deaths} ]; then again=yes; fi
if [ -n "$again" ] && [ -z "$ended" ]; then
    # By this name: the number of one task is the number of the whole array, too. Where a requeue is
    # not allowed, the rest is submitted as another job.
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" || sbatch --array=0 {script}
fi
exit "$code"
"""


def script_of(settings: SlurmSettings, name: str, out: Path) -> str:
    """Return the script of the array job `name` for the matrix in `out`; sbatch gets array=."""
    folder = out / "slurm"
    minutes, seconds = divmod(settings.time_limit, 60)
    asked = {
        "job-name": name,
        "output": f"{str(folder).replace('%', '%%')}/%A_%a.txt",
        "open-mode": "append",
        "time": f"{minutes}:{seconds:02}",
        "signal": f"B:USR1@{settings.signal}",
        "nodes": "1",
        "ntasks": "1",
        "partition": settings.partition,
        "gres": f"gpu:{settings.gpus}" if settings.gpus else "",
        "cpus-per-task": settings.cpus,
        "mem": settings.memory,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
    }
    lines = ["#!/bin/bash", f"# Made by scripts/matrix.py for {out}".replace("\n", " ")]
    lines += [f"#SBATCH --{key}={_quoted(str(value))}" for key, value in asked.items() if value]
    lines += ["#SBATCH --requeue", *settings.lines]
    task = [sys.executable, str(ENTRY), "--out", str(out), "--task"]
    body = _BODY.format(
        here=shlex.quote(str(REPOSITORY)),
        task=shlex.join(task),
        deaths=_DEATHS,
        script=shlex.quote(str(folder / "matrix.sh")),
    )
    return "\n".join(lines) + "\n" + body


def _quoted(value: str) -> str:
    """Return a value quoted for a line of sbatch's script."""
    plain = all(letter.isalnum() or letter in "-_./:@%&|,*[]()" for letter in value)
    return value if plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
