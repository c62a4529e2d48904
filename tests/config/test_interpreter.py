"""An entry started by a Python without the packages goes on in .venv, or says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.config import interpreter
from tests.conftest import REPOSITORY

ENTRIES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for folder in ("gpt2", "scripts")
    for path in (REPOSITORY / folder).glob("*.py")
    if "run_entry(" in path.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without .venv."""
    root = tmp_path_factory.mktemp("a checkout")
    for name in ("gpt2", "scripts"):
        shutil.copytree(
            REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("requirements.txt", "Kconfig"):
        shutil.copy(REPOSITORY / name, root / name)
    return root


def start(
    root: Path, *arguments: str, here: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Start an entry by a Python that has only the standard library."""
    # -S: without site-packages; what is in PYTHONPATH would be there all the same.
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=here or root, env=clean, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_every_entry_asks(bare: Path) -> None:
    assert len(ENTRIES) >= 12
    for entry in ENTRIES:
        asks = "continue_in_venv()" if "doctor" in entry else f'need_packages("{Path(entry).name}")'
        assert asks in (REPOSITORY / entry).read_text(encoding="utf-8"), entry


@pytest.mark.parametrize("entry", ["gpt2/train.py", "gpt2/prepare_data.py", "scripts/matrix.py"])
def test_without_venv_it_says_what_to_do(entry: str, bare: Path) -> None:
    done = start(bare, entry, "--help")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(
        f"{Path(entry).name}: error: this Python ({sys.executable}) lacks"
    )
    assert "kconfiglib" in done.stderr
    assert "run 'make' once" in done.stderr


def test_with_venv_it_continues_there(bare: Path) -> None:
    python = bare / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    for here, words in ((bare, ("gpt2/train.py",)), (bare / "gpt2", ("train.py",))):
        done = start(bare, *words, "--prompt", "a b", here=here)
        assert done.stdout.splitlines() == ["-S", *words, "--prompt", "a b"]
    done = start(bare, "-m", "gpt2.train", "--help")
    assert done.stdout.splitlines() == ["-S", "-m", "gpt2.train", "--help"]


def test_the_packages_are_those_of_training() -> None:
    assert {"torch", "kconfiglib", "pyyaml"} <= set(interpreter.needed())
    assert not {"matplotlib", "pytest"} & set(interpreter.needed())
    assert interpreter.lacking() == []


def test_a_command_names_a_python_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """python3 of the PATH may lack the packages: what runs now has them."""
    other = tmp_path / "bin" / "python3"
    other.parent.mkdir()
    other.symlink_to(sys.executable)  # the same program, in a folder without packages
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PATH", str(other.parent))
    python, entry = interpreter.command("gpt2/train.py")
    assert entry == "gpt2/train.py"
    assert python == os.path.relpath(sys.executable) or python == sys.executable
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert interpreter.command("gpt2/train.py") == ["python3", "gpt2/train.py"]
    monkeypatch.chdir(tmp_path)  # also from elsewhere, and what it names starts
    python, entry = interpreter.command("gpt2/train.py")
    done = subprocess.run([python, entry, "--version"], capture_output=True, check=False)
    assert done.returncode == 0


def test_a_venv_that_others_may_not_enter_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python is a link into the home of whoever made it."""

    def closed(self: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(interpreter, "VENV", tmp_path)
    monkeypatch.setattr(Path, "stat", closed)
    interpreter.continue_in_venv()
    monkeypatch.setattr(interpreter, "lacking", lambda: ["torch"])
    with pytest.raises(SystemExit) as left:
        interpreter.need_packages("train.py")
    assert left.value.code == 2
