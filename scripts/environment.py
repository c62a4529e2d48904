"""Print a Python with the packages of requirements.txt, making .venv if the current one lacks any.

Runs on a bare Python >= 3.11. The current Python is used unchanged when it has every package of the
group asked for. Otherwise .venv gets what is missing, on top of an installed torch (such as one
built for ROCm or another CUDA). A .venv of another Python version is kept: this one then gets
.venv-3.X beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
VENV = REPOSITORY / ".venv"
#: The oldest torch the code runs on; an installed one that is not older is kept.
OLDEST_TORCH = (2, 10)
GROUPS = ("runtime", "report", "development")
#: Settings of pip that would install elsewhere, into another Python, or something else.
PIP_ELSEWHERE = (
    "TARGET", "PREFIX", "ROOT", "PYTHON", "REQUIREMENT", "EDITABLE", "DRY_RUN", "NO_DEPS",
    "PLATFORM", "PYTHON_VERSION", "IMPLEMENTATION", "ABI", "REPORT",
)  # fmt: skip

#: Said before the packages of the report are installed.
REPORT_COSTS = "the report draws and tests with them: 60 MB to download, 250 MB on disk, once"
#: Content of `made-for` while a .venv is being made.
UNFINISHED = "unfinished"


class UnusableError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def requirements(group: str) -> dict[str, str]:
    """Return {package: requirement line} of requirements.txt up to and including `group`."""
    found: dict[str, str] = {}
    current = GROUPS[0]
    for line in (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.removeprefix("# ") in GROUPS:
            current = line.removeprefix("# ")
        elif line and not line.startswith("#") and GROUPS.index(current) <= GROUPS.index(group):
            found[re.split(r"[=<>!~\[; ]", line)[0]] = line
    return found


def missing(wanted: dict[str, str]) -> list[str]:
    """Return the requirement lines that the running Python does not satisfy.

    Runtime packages may have any installed version. Those of the report and of development, whose
    pictures and verdicts depend on the version, must have the pinned one.
    """
    runtime = requirements("runtime")
    unmet = []
    for name, line in wanted.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            unmet.append(line)
            continue
        if name == "torch":
            if not new_enough(version):
                unmet.append(line)
        elif name not in runtime and "==" in line and version != line.split("==")[1]:
            unmet.append(line)
    return unmet


def new_enough(torch: str) -> bool:
    """Return whether the code runs on this version of torch."""
    return tuple(int(part) for part in re.findall(r"\d+", torch)[:2]) >= OLDEST_TORCH


def main() -> None:
    """Print the path of the Python to use; progress goes to stderr."""
    group = sys.argv[1] if len(sys.argv) > 1 else GROUPS[0]
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs on whatever Python there is
        raise UnusableError("Python 3.11 or newer is needed: make PYTHON=python3.11")
    python = Path(sys.executable)
    if missing(requirements(group)):
        folder = own_venv()
        python = folder / "bin" / "python"
        if Path(sys.prefix).resolve() != folder and (why := unfit(folder)):
            make_venv(folder, why)
        install(python, lacking(python, group))
        if left := lacking(python, group):
            raise UnusableError(
                f"pip succeeded, but {python} still lacks {', '.join(left)}: a setting of pip "
                "sends packages elsewhere; see 'pip config list', and remove user, target, prefix "
                "or root there"
            )
    elif os.environ.get("TORCH_INDEX") and not python.is_relative_to(VENV):
        say(f"TORCH_INDEX has no effect: {python} has a torch, which is used as it is")
    print(os.path.relpath(python) if python.is_relative_to(Path.cwd()) else python)


def own_venv() -> Path:
    """Return the .venv of this Python; if that is of another version, one beside it.

    So two people, or two shells, with different Pythons do not replace each other's.
    """
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    theirs = made_for(VENV)[0]
    if not (VENV / "bin" / "python").exists() or theirs in ("", UNFINISHED, version):
        return VENV
    return VENV.with_name(f"{VENV.name}-{version}")


def made_for(folder: Path) -> list[str]:
    """Return what a .venv was made for, as in at_hand(); its first entry is empty if unknown.

    If it was not made here, only its Python version is known.
    """
    stamp, settings = folder / "made-for", folder / "pyvenv.cfg"
    if stamp.exists():
        return stamp.read_text(encoding="utf-8").split("\n")
    text = settings.read_text(encoding="utf-8") if settings.exists() else ""
    found = re.search(r"^version(?:_info)? *= *(\d+\.\d+)", text, re.MULTILINE)
    return [found[1] if found else ""]


def unfit(folder: Path) -> str:
    """Return why a .venv has to be made again; empty where it can be used."""
    before, now = made_for(folder), at_hand()
    if not folder.exists():
        return "once"
    if before[0] in ("", UNFINISHED) or not (folder / "bin" / "python").exists():
        return "anew: it was not finished"
    names = ("the Python", "the torch", "the TORCH_INDEX")
    for name, was, is_now in zip(names, before, now, strict=False):
        if is_now not in ("", was):
            return f"anew: {name} it is for was {was or 'its own'} and is {is_now}"
    return ""


def at_hand() -> list[str]:
    """Return what a .venv is made for: Python's version, the shared torch, another index."""
    site = shared_torch()
    index = os.environ.get("TORCH_INDEX", "")
    return [f"{sys.version_info[0]}.{sys.version_info[1]}", site, "" if site else index]


def shared_torch() -> str:
    """Return the folder of this Python's torch; empty when it cannot be used."""
    try:
        torch = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return ""
    return str(torch.locate_file("")) if new_enough(torch.version) else ""


def make_venv(folder: Path, why: str) -> None:
    """Make a .venv without packages; it shares this Python's torch."""
    say(f"making {folder.name} ({why})")
    if folder.is_symlink():  # its target may be somebody else's
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "made-for").write_text(UNFINISHED, encoding="utf-8")
    run(
        [sys.executable, "-m", "venv", str(folder)],
        "making .venv failed: the module venv is part of Python, and a package of its own on "
        "Debian (python3-venv)",
    )
    python = folder / "bin" / "python"
    if site := shared_torch():
        say(f"using the torch in {site}")
        # A .pth file works for virtualenv and conda, too; --system-site-packages would add the base
        # installation's packages. torch may need packages from another folder than its own.
        folders = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        purelib = run([str(python), "-c", "import sysconfig as s; print(s.get_path('purelib'))"])
        Path(purelib.strip(), "python_at_hand.pth").write_text("\n".join(folders) + "\n")
    (folder / "made-for").write_text("\n".join(at_hand()), encoding="utf-8")


def lacking(python: Path, group: str) -> list[str]:
    """Return the requirement lines that .venv does not satisfy."""
    code = (
        "import sys; sys.path[0] = sys.argv[1]; import environment as e; "
        "print('\\n'.join(e.missing(e.requirements(sys.argv[2]))))"
    )
    answer = run([str(python), "-c", code, str(REPOSITORY / "scripts"), group])
    return [line for line in answer.splitlines() if line]


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
        runtime, report = requirements("runtime"), requirements("report")
        own = {line for name, line in report.items() if name not in runtime}
        pip(python, lines, REPORT_COSTS if own.intersection(lines) else "")


def pip(python: Path, arguments: list[str], why: str = "") -> None:
    """Run pip install: quietly, unless a terminal waits for torch and wants to see its progress."""
    say(f"installing {' '.join(arguments)}" + (f" ({why})" if why else ""))
    large = any(re.match(r"torch\b", line) for line in arguments)
    quiet = [] if large and sys.stderr.isatty() else ["-q"]
    run(
        [str(python), "-m", "pip", "install", "--disable-pip-version-check", *quiet, *arguments],
        "pip could not install the packages: see above; a machine without a network needs them "
        "installed beforehand (requirements.txt), and 'make distclean' removes a broken .venv",
        stdout=2,
        environment=pip_environment(),
    )


def pip_environment() -> dict[str, str]:
    """Return the environment for pip: this one, without settings that install elsewhere.

    Indexes, proxies, certificates, caches and constraints are kept.
    """
    elsewhere = {f"PIP_{name}" for name in PIP_ELSEWHERE}
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "PIP_USER": "0"}  # overrides `user = true` in a pip.conf


def run(
    command: list[str],
    failure: str = ".venv does not work: 'make distclean', and again",
    stdout: int = subprocess.PIPE,
    environment: dict[str, str] | None = None,
) -> str:
    """Run a command and return its output.

    Raises UnusableError with `failure`.
    """
    done = subprocess.run(command, stdout=stdout, text=True, check=False, env=environment)
    if done.returncode:
        raise UnusableError(failure)
    return done.stdout or ""


def say(text: str) -> None:
    """Print what takes time."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except UnusableError as error:
        sys.exit(f"environment.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
