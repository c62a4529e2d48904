"""Print a Python that has what requirements.txt names, making .venv if the one at hand has not.

Runs on a bare Python >= 3.11. The Python at hand is taken unchanged when it has every package of
the group that is asked for; else .venv gets what is missing, on top of a torch that is there (one
built for ROCm or for another CUDA, say).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
VENV = REPOSITORY / ".venv"
#: The oldest torch the code runs on; an installed one at least so new is kept as it is.
OLDEST_TORCH = (2, 10)
GROUPS = ("runtime", "development")


class Unusable(Exception):
    """The environment cannot be made; the message says why and what to do."""


def requirements(group: str) -> dict[str, str]:
    """Return {package: requirement line} of requirements.txt up to and including `group`."""
    found: dict[str, str] = {}
    current = GROUPS[0]
    for line in (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# development"):
            current = "development"
        elif line and not line.startswith("#"):
            if GROUPS.index(current) <= GROUPS.index(group):
                found[re.split(r"[=<>!~\[; ]", line)[0]] = line
    return found


def missing(wanted: dict[str, str]) -> list[str]:
    """Return the requirement lines that the running Python does not satisfy.

    Runtime packages are taken in the version they are there in, the tools of development (whose
    verdicts change with the version) only in the pinned one.
    """
    runtime = requirements("runtime")
    lacking = []
    for name, line in wanted.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacking.append(line)
            continue
        if name == "torch":
            numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
            if numbers < OLDEST_TORCH:
                lacking.append(line)
        elif name not in runtime and "==" in line and version != line.split("==")[1]:
            lacking.append(line)
    return lacking


def main() -> None:
    """Print the path of the Python to use; progress goes to the error stream."""
    group = sys.argv[1] if len(sys.argv) > 1 else "runtime"
    if sys.version_info < (3, 11):
        raise Unusable("Python 3.11 or newer is needed: make PYTHON=python3.11")
    wanted = requirements(group)
    lacking = missing(wanted)
    if not lacking:
        print(sys.executable)
        return
    python = VENV / "bin" / "python"
    if Path(sys.prefix) == VENV:
        install(python, lacking)
    else:
        if not ready(python, group):
            make_venv(python, group)
    print(os.path.relpath(python) if python.is_relative_to(Path.cwd()) else python)


def ready(python: Path, group: str) -> bool:
    """Whether .venv has been finished for this Python, these requirements and this group."""
    stamp = VENV / f"ready-{group}"
    return python.exists() and stamp.exists() and stamp.read_text() == signature(group)


def signature(group: str) -> str:
    """What a finished .venv was made for."""
    return f"{sys.version_info[:3]}\n" + "\n".join(requirements(group).values()) + "\n"


def make_venv(python: Path, group: str) -> None:
    """Make .venv, or complete it, and install what it lacks."""
    if not python.exists():
        say(f"making {VENV.name} (once)")
        clear = ["--clear"] if VENV.exists() else []
        run(
            [sys.executable, "-m", "venv", *clear, str(VENV)],
            "making .venv failed: the module "
            "venv is part of Python, and a package of its own on Debian (python3-venv)",
        )
        share_torch(python)
    code = (
        "import sys; sys.path[0] = sys.argv[1]; import environment as e; "
        "print('\\n'.join(e.missing(e.requirements(sys.argv[2]))))"
    )
    lacking = run(
        [str(python), "-c", code, str(REPOSITORY / "scripts"), group],
        ".venv does not work: make distclean, and again",
    ).split("\n")
    install(python, [line for line in lacking if line])
    (VENV / f"ready-{group}").write_text(signature(group))


def share_torch(python: Path) -> None:
    """Let .venv see the site-packages of the Python at hand when there is a torch in it."""
    try:
        torch = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return
    numbers = tuple(int(part) for part in re.findall(r"\d+", torch.version)[:2])
    if numbers < OLDEST_TORCH:
        return
    say(f"using the torch {torch.version} that is installed")
    # A .pth file works for a virtualenv and for conda too, where --system-site-packages would show
    # the base installation's packages.
    site = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], "")
    Path(site.strip(), "python_at_hand.pth").write_text(f"{torch.locate_file('')}\n")


def install(python: Path, lines: list[str]) -> None:
    """Install requirement lines with pip; TORCH_INDEX names another index for torch."""
    if not lines:
        return
    index = os.environ.get("TORCH_INDEX", "")
    torch = [line for line in lines if re.match(r"torch\b", line)]
    if index and torch:
        pip(python, ["--index-url", index, *torch])
        lines = [line for line in lines if line not in torch]
    if lines:
        pip(python, lines)


def pip(python: Path, arguments: list[str]) -> None:
    """Run pip install, its output on the error stream."""
    say("installing " + " ".join(arguments))
    run(
        [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", *arguments],
        "pip could not install the packages: see above; a machine without a network needs them "
        "installed beforehand (requirements.txt)",
    )


def run(command: list[str], failure: str) -> str:
    """Run a command and return its output. Raises Unusable with `failure`."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Unusable(failure)
    return done.stdout


def say(text: str) -> None:
    """Tell the user what takes time."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Unusable as error:
        sys.exit(f"environment.py: error: {error}")
