"""The checks for a card, gone through on a CPU, so that they work on the day there is a card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.support import tiny

SCRIPT = REPOSITORY / "tests" / "cuda" / "check.sh"


@pytest.mark.long
@pytest.mark.parametrize("part", ["a", "b"])
def test_a_dry_run_passes(part: str, tmp_path: Path) -> None:
    data = tiny.make_data(tmp_path / "data")
    environment = {
        **os.environ,
        "DRY": "1",
        "PY": sys.executable,
        "OUT": str(tmp_path / "out"),
        "DATA_FLAGS": "--dataset text --tokenizer char",
        "DATA_DIR": str(data),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), part],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert "FAILED" not in done.stdout, done.stdout
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("done")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        env={**os.environ, "DRY": "", "PY": sys.executable, "OUT": str(tmp_path / "out")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "check-gpu: error: torch finds no CUDA or ROCm GPU here; DRY=1 goes through the checks "
        "on a CPU\n"
    )


def test_an_unknown_part_is_one_line() -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), "c"],
        env={**os.environ, "DRY": "1", "PY": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "check-gpu: error: PART=c is unknown (there are a and b)\n"
