"""Every defconfig trains: two steps on a CPU, shrunk by flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2.config.errors import Exit
from gpt2.train import main
from scripts.flags import flags
from tests.support import tiny

DEFCONFIGS = sorted((tiny.REPOSITORY / "defconfigs").glob("[!.]*"))
SHRUNK = [
    "--dataset", "text", "--tokenizer", "char", "--block-size", "8",
    "--model", "custom", "--n-layer", "2", "--n-head", "2", "--n-embd", "64",
    "--batch-size", "2", "--max-steps", "2", "--device", "cpu", "--num-threads", "1",
    "--sample-tokens", "10",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
@pytest.mark.parametrize("path", DEFCONFIGS, ids=lambda path: path.name)
def test_it_trains_two_steps(path: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["--data-dir", str(data), "--run-dir", str(run), "--no-compile", *SHRUNK]
    assert main([*flags(path), *more]) == Exit.OK
    assert json.loads((run / "summary.json").read_text())["steps"] == 2


def test_those_the_makefile_takes_exist() -> None:
    from scripts.kconfig.start import CPU_DEFCONFIG, GPU_DEFCONFIG

    assert {CPU_DEFCONFIG, GPU_DEFCONFIG} <= {path.name for path in DEFCONFIGS}
