"""Every module is tested: by a file of its name, or by the test that tests/tested_by.txt names.

A plug-in's tests are the batteries over its folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.config.typed import PLUGIN_PACKAGES
from tests.support.repository import REPOSITORY

LIST = REPOSITORY / "tests" / "tested_by.txt"
PLUGINS = tuple(f"{package.replace('.', '/')}/" for package in PLUGIN_PACKAGES.values())


def named() -> dict[str, str]:
    """The test of each module in the list."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs)
    return dict(pairs)


def without_a_file_of_its_name() -> set[str]:
    found = set()
    for package in ("gpt2", "scripts"):
        for path in (REPOSITORY / package).rglob("*.py"):
            name = path.relative_to(REPOSITORY).as_posix()
            here = Path(name.removeprefix("gpt2/")).parent
            test = REPOSITORY / "tests" / here / f"test_{path.name}"
            if path.stat().st_size and not name.startswith(PLUGINS) and not test.exists():
                found.add(name)
    return found


def test_every_module_has_a_test_file_of_its_name_or_a_line() -> None:
    assert named().keys() == without_a_file_of_its_name()
    for test in named().values():
        path, _, function = test.partition("::")
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in text, test


@pytest.mark.long
@pytest.mark.parametrize("module", sorted(named()))
def test_the_named_test_fails_when_the_module_raises(module: str) -> None:
    """What is public in the module raises in every process of the test: see support/broken."""
    environment = {
        **os.environ,
        "BROKEN_MODULE": module.removesuffix(".py").replace("/", "."),
        "PYTHONPATH": str(REPOSITORY / "tests" / "support" / "broken"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider",
         named()[module]],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2, 4), done.stdout  # 4: what it needs cannot even be imported
    assert "is broken on purpose" in done.stdout + done.stderr
