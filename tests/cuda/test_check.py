"""The checks for a card, gone through on a CPU, so that they work on the day there is a card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.cuda.table import Row, table
from tests.support import tiny

SCRIPT = REPOSITORY / "tests" / "cuda" / "check_gpu.py"


def run(*parts: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *parts],
        env={**os.environ, "DRY": "", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        (
            "right",
            [
                "no host sync",
                "kill -9 and resume",
                "--shard none",
                "--shard fsdp",
                "the main job to its end",
            ],
        ),
        ("fast", ["beside plain", "beside nanogpt", "chunks of 512 MiB", "pruning", "memory"]),
    ],
)
def test_a_dry_run_passes(part: str, wanted: list[str], tmp_path: Path) -> None:
    data = tiny.make_data(tmp_path / "data")
    out = tmp_path / "out"
    flags = "--dataset text --tokenizer char"
    done = run(part, DRY="1", OUT=str(out), DATA_FLAGS=flags, DATA_DIR=str(data))
    assert "FAILED" not in done.stdout, done.stdout
    assert done.returncode == 0, done.stderr
    text = (out / "table.md").read_text()
    assert done.stdout.endswith(text)
    for words in wanted:
        (line,) = [line for line in text.splitlines() if words in line]
        assert line.split(" | ")[2] == "ok", line
    assert text.startswith("### check-gpu, a dry run on a CPU: no result of a card")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = run(OUT=str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "check-gpu: error: torch finds no CUDA or ROCm GPU here; DRY=1 goes through the checks "
        "on a CPU\n"
    )


def test_an_unknown_part_is_one_line() -> None:
    done = run("c", DRY="1")
    assert done.returncode == 2
    assert done.stderr == "check-gpu: error: PART=c is unknown (there are right and fast)\n"


def test_the_table_is_markdown_of_one_machine() -> None:
    about = {
        "device_name": "NVIDIA L4", "commit": "abc", "gpu": {"capability": "8.9", "driver": "580"},
        "versions": {"torch": "2.11.0", "cuda": "13.0", "hip": None},
    }  # fmt: skip
    rows = [
        Row("right", "a | b", "ok", "two\nlines", 12.4),
        Row("fast", "pruning", "left out", "9 s were left, it wants 40"),
    ]
    lines = table(about, rows, dry=False).splitlines()
    assert lines[0] == "### check-gpu: NVIDIA L4"
    assert "torch 2.11.0, cuda 13.0, capability 8.9, driver 580; commit abc." in lines[2]
    assert lines[4:] == [
        "| part | check | verdict | result | s |",
        "|---|---|---|---|--:|",
        "| right | a / b | ok | two lines | 12 |",
        "| fast | pruning | left out | 9 s were left, it wants 40 |  |",
    ]
