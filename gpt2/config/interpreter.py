"""Choose the Python of an entry: that of .venv if the current one lacks a package.

It needs only the standard library, and runs on older Pythons.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
VENV = REPOSITORY / ".venv"
OLDEST = (3, 11)
#: Modules whose names differ from their packages'.
_MODULES = {"pyyaml": "yaml"}


def need_packages(program: str) -> None:
    """Continue in .venv if this Python lacks a package; exit 2 with one line if that fails.

    Call it before any other import.
    """
    continue_in_venv()
    lacks = lacking()
    if sys.version_info < OLDEST:
        lacks = [f"version {'.'.join(map(str, OLDEST))} or newer"]
    if not lacks:
        return
    here = os.path.relpath(VENV / "bin" / "python")
    way = "run 'make' once, which makes .venv with all that is needed"
    if in_venv():
        way = "run 'make' once, which installs what is missing"
    elif _works(VENV / "bin" / "python"):
        way = f"use {here}, or run 'make' once"
    print(
        f"{program}: error: this Python ({sys.executable}) lacks {', '.join(lacks)}; {way}",
        file=sys.stderr,
    )
    sys.exit(2)


def continue_in_venv() -> None:
    """Restart the same command with .venv's Python, if a package is missing here."""
    python = VENV / "bin" / "python"
    if in_venv() or not _works(python) or not lacking():
        return
    if sys.version_info < (3, 10):  # noqa: UP036 - runs on whatever Python there is
        return  # orig_argv is missing; need_packages names the version
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.orig_argv[1:]])


def command(entry: str) -> list[str]:
    """Return the words that start `entry`, a file of the repository, from the current folder.

    They use the running Python, which has the packages: python3 may be another one.
    """
    running = Path(sys.executable)
    found = shutil.which("python3")
    same = found and Path(found).parent.resolve() == running.parent.resolve()
    return ["python3" if same else _typed(running), _typed(REPOSITORY / entry)]


def _works(python: Path) -> bool:
    """Return whether a Python exists and may be run: it can link to another user's home."""
    return os.access(python, os.X_OK)


def _typed(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def in_venv() -> bool:
    """Return whether this Python is that of .venv."""
    return Path(sys.prefix).resolve() == VENV.resolve()


def lacking() -> list[str]:
    """Return the missing packages of requirements.txt that training needs."""
    return [name for name in needed() if importlib.util.find_spec(_MODULES.get(name, name)) is None]


def needed() -> list[str]:
    """Return the packages in the first group of requirements.txt, those for training."""
    names = []
    path = REPOSITORY / "requirements.txt"
    if not path.exists():  # only gpt2/ was copied; its owner installs the packages
        return []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and line != "# runtime":
            break
        if line and not line.startswith("#"):
            names.append(re.split(r"[=<>!~\[; ]", line)[0])
    return names
