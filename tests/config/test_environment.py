"""Variables of the environment, as notebooks, clusters and laptops have them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.config.environment import REMOVED, remove_harmful
from tests.support import tiny

HARMFUL = {
    "MPLBACKEND": "module://a_notebook.backend_inline",
    "MATPLOTLIBRC": "/no/such/matplotlibrc",
    "TQDM_MININTERVAL": "often",
    "NVIDIA_TF32_OVERRIDE": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
}


def test_what_is_harmful_is_removed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**HARMFUL, "TQDMX": "1", "OMP_NUM_THREADS": "2"})
    remove_harmful()
    assert os.environ == {"TQDMX": "1", "OMP_NUM_THREADS": "2"}
    for one in REMOVED:
        assert any(name.startswith(one) for name in HARMFUL)


LIBRARIES = """
from gpt2.config.entry import run_entry
def main():
    import matplotlib
    from matplotlib.figure import Figure
    from tqdm import tqdm
    Figure().savefig("{}")
    list(tqdm(range(2), disable=None))
    print("drawn with", matplotlib.get_backend())
    return 0
run_entry("test.py", main)
"""


@pytest.mark.slow
def test_libraries_start_in_a_harmful_environment(tmp_path: Path) -> None:
    code = LIBRARIES.format(tmp_path / "a.svg")
    environment = {**os.environ, **HARMFUL}
    bare = code.split("def main():")[1].rpartition("    print")[0]
    bare = "if True:" + bare
    command = [sys.executable, "-c"]
    alone = subprocess.run([*command, bare], env=environment, capture_output=True, check=False)
    assert alone.returncode != 0, "it does harm"
    done = subprocess.run(
        [*command, code], env=environment, cwd=tiny.REPOSITORY, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"drawn with" in done.stdout


@pytest.mark.parametrize("term", [None, "", "no-such-terminal"])
def test_a_terminal_that_is_not_known(term: str | None, tmp_path: Path) -> None:
    """ssh brings TERM from the user's laptop, whose terminal this machine need not know."""
    environment = {name: value for name, value in os.environ.items() if name != "TERM"}
    if term is not None:
        environment["TERM"] = term
    ours, theirs = pty.openpty()
    config = tmp_path / ".config"
    done = subprocess.run(
        [sys.executable, "scripts/kconf.py", "--config", str(config), "menuconfig"],
        cwd=tiny.REPOSITORY, env=environment, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"TERM={term or ''!r}" in line
    assert "TERM=xterm-256color make menuconfig" in line
