"""A cell as a command line: for the runner, and for the user to paste."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from gpt2.config.schema import REPOSITORY
from scripts.study.records import CellRecord


def arguments(cell: CellRecord, run_dir: Path, halvings: int = 0) -> list[str]:
    """Return the flags of a cell's run, its micro-batch halved `halvings` times: the same run."""
    flags = [*cell.flags]
    if halvings:
        batch, accumulation = cell.batch
        flags += ["--batch-size", str(batch >> halvings)]
        flags += ["--gradient-accumulation", str(accumulation << halvings)]
    return [*flags, "--run-dir", str(run_dir.absolute())]


def can_halve(cell: CellRecord, halvings: int) -> bool:
    """Return whether the micro-batch can be halved once more with the same effective batch."""
    return cell.batch[0] % (2 << halvings) == 0


def pasteable(flags: Sequence[str], device: str = "") -> str:
    """Return the command line for people, to run in the repository's root."""
    *others, folder = flags
    path = Path(folder)
    if path.is_relative_to(REPOSITORY):
        folder = str(path.relative_to(REPOSITORY))
    where = f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={device} " if device else ""
    return where + shlex.join(["python3", "gpt2/train.py", *others, folder])
