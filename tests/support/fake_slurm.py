"""Programs of Slurm that a test decides the answers of: scripts in a folder to be put on the PATH.

In that folder `log` holds what they were called with; `jobs` is what squeue prints, without which
it fails, and `left` the time that it says is left; `refuse` is what sbatch fails with, `norequeue`
has scontrol requeue fail.
"""

from __future__ import annotations

from pathlib import Path

from scripts.study.slurm import commands

_PROGRAMS = {
    "sbatch": """
if [ -e "$here/refuse" ]; then cat "$here/refuse" >&2; exit 1; fi
echo "7;cluster"
""",
    "squeue": """
case "$*" in *%L*) cat "$here/left"; exit;; esac
if [ ! -e "$here/jobs" ]; then echo "slurm_load_jobs error: Unable to contact slurm" >&2; exit 1; fi
cat "$here/jobs"
""",
    "sinfo": "echo 'tests*|1-00:00:00'; echo 'gpu|infinite'\n",
    "scontrol": """
case "$1" in
    show) echo "MaxArraySize            = 33";;
    requeue) [ ! -e "$here/norequeue" ];;
esac
""",
}


class FakeSlurm:
    """The programs in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name, body in _PROGRAMS.items():
            text = f'#!/bin/sh\nhere="{folder}"\necho "{name} $*" >> "$here/log"\n{body}'
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "left").write_text("2:00:00\n")
        self.jobs()

    def jobs(self, *found: tuple[str, int, str, str]) -> None:
        """Let squeue list jobs: each ARRAY_TASK, life, state, and the indices of its tasks."""
        widths = [int(field.partition(":")[2]) for field in commands._FIELDS.split(",")]
        lines = []
        for job, life, state, tasks in found:
            reason = "Priority" if state == "PENDING" else "None"
            values = (job, str(life), state, tasks, "node1", reason)
            pairs = zip(values, widths, strict=True)
            lines.append("".join(value.ljust(width) for value, width in pairs) + "\n")
        (self.folder / "jobs").write_text("".join(lines))

    def log(self, program: str) -> list[str]:
        """Return the arguments of each call of a program."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(program)]
