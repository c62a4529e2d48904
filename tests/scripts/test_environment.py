"""Which Python is used, and what is installed where: the decisions, without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from scripts import environment
from scripts.environment import UnusableError
from tests.conftest import REPOSITORY

RUNTIME = {"torch": "torch==2.13.0", "numpy": "numpy==2.4.6", "tqdm": "tqdm==4.70.1"}
DEVELOPMENT = {**RUNTIME, "ruff": "ruff==0.17.6"}
TEXT = "# runtime\n{}\n\n# development\nruff==0.17.6\n".format("\n".join(RUNTIME.values()))
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Site:
    """The packages of the Python at hand, and those that its .venv got by pip."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.versions: dict[str, str] = {}
        self.venv: dict[str, str] = {}
        self.commands: list[list[str]] = []
        self.fails = ""
        self.elsewhere = False  # pip installs to another place
        self.environment: dict[str, str] | None = None
        patch.setattr(metadata, "version", self.version)
        patch.setattr(metadata, "distribution", self.distribution)
        patch.setattr(environment, "run", self.run)
        patch.setattr(environment, "REPOSITORY", root)
        patch.setattr(environment, "VENV", root / ".venv")
        patch.setattr(environment, "lacking", self.lacking)
        patch.delenv("TORCH_INDEX", raising=False)
        patch.chdir(root)
        (root / "requirements.txt").write_text(TEXT)

    def version(self, name: str) -> str:
        if name not in self.versions:
            raise metadata.PackageNotFoundError(name)
        return self.versions[name]

    def distribution(self, name: str) -> object:
        class Found:
            version = self.version(name)
            locate_file = staticmethod(lambda _: "/at/hand/site-packages")

        return Found()

    def lacking(self, python: Path, group: str) -> list[str]:
        assert python.parents[1] in self.root.glob(".venv*")
        shared = self.versions if (self.purelib / "python_at_hand.pth").exists() else {}
        wanted = environment.requirements(group)
        return [line for name, line in wanted.items() if name not in {**shared, **self.venv}]

    @property
    def purelib(self) -> Path:
        return self.root / ".venv" / "site-packages"

    def run(
        self,
        command: list[str],
        failure: str = "",
        stdout: int = -1,
        environment: dict[str, str] | None = None,
    ) -> str:
        del stdout
        self.commands.append(command)
        self.environment = environment
        if self.fails and self.fails in command:
            raise UnusableError(failure)
        if "venv" in command:
            folder = Path(command[-1])
            assert [path.name for path in folder.iterdir()] == ["made-for"], "it is empty"
            self.venv.clear()
            (folder / "site-packages").mkdir()
            (folder / "bin").mkdir()
            (folder / "bin" / "python").touch()
        elif "pip" in command:
            for line in command:
                if "==" in line and not self.elsewhere:
                    self.venv[line.split("==")[0]] = line.split("==")[1]
        elif "sysconfig" in command[-1]:
            return f"{self.purelib}\n"
        return ""

    def names(self) -> list[str]:
        """What was done: `venv`, or `pip` with its packages."""
        done = []
        for command in self.commands:
            if "venv" in command:
                done.append("venv")
            elif "pip" in command:
                index = (
                    command[command.index("--index-url") + 1] if "--index-url" in command else ""
                )
                packages = [word.split("==")[0] for word in command if "==" in word]
                done.append(" ".join(["pip", *([f"from:{index}"] if index else []), *packages]))
        self.commands.clear()
        return done


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path.resolve(), monkeypatch)


def chosen(capsys: pytest.CaptureFixture[str], group: str = "runtime") -> str:
    """The Python that environment.py prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["environment.py", group])
        environment.main()
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return out.strip()


@pytest.mark.usefixtures("site")
def test_development_includes_runtime() -> None:
    assert environment.requirements("runtime") == RUNTIME
    assert environment.requirements("development") == DEVELOPMENT


def test_the_report_has_packages_that_training_does_not_need() -> None:
    runtime, report, development = map(environment.requirements, environment.GROUPS)
    own = {"matplotlib", "scipy", "jinja2"}
    assert set(report) - set(runtime) == own
    assert own <= set(development)
    for path in (REPOSITORY / "gpt2").rglob("*.py"):
        assert not re.search(rf"\b(import|from) ({'|'.join(own)})\b", path.read_text()), path


def test_the_real_requirements_are_pinned_and_complete() -> None:
    runtime = environment.requirements("runtime")
    development = environment.requirements("development")
    for line in development.values():
        assert re.fullmatch(r"[a-z0-9_-]+==[0-9][0-9.]*", line), line
    assert {"torch", "numpy", "kconfiglib", "safetensors", "tiktoken", "tqdm"} <= set(runtime)
    assert {"pytest", "ruff", "mypy"} <= set(development) - set(runtime)
    pinned = tuple(int(part) for part in runtime["torch"].split("==")[1].split(".")[:2])
    assert pinned >= environment.OLDEST_TORCH


@pytest.mark.parametrize(
    ("versions", "lacking"),
    [
        ({}, ["torch", "numpy", "tqdm", "ruff"]),
        ({"torch": "2.13.0", "numpy": "1.0", "tqdm": "1", "ruff": "0.17.6"}, []),
        ({"torch": "2.10.0+rocm6.4", "numpy": "1", "tqdm": "1", "ruff": "0.17.6"}, []),
        ({"torch": "2.9.1", "numpy": "1", "tqdm": "1", "ruff": "0.17.6"}, ["torch"]),
        ({"torch": "3.0.0a0+git12", "numpy": "1", "tqdm": "1", "ruff": "0.17.6"}, []),
        ({"torch": "2.13.0", "numpy": "1", "tqdm": "1", "ruff": "0.17.5"}, ["ruff"]),
        ({"torch": "2.13.0", "tqdm": "1", "ruff": "0.17.6"}, ["numpy"]),
    ],
)
def test_what_is_missing(versions: dict[str, str], lacking: list[str], site: Site) -> None:
    site.versions = versions
    found = environment.missing(environment.requirements("development"))
    assert found == [DEVELOPMENT[name] for name in lacking]


WHOLE = {"torch": "2.12.0", "numpy": "2.0", "tqdm": "4.0"}


def test_a_python_that_has_everything_is_used_unchanged(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.versions = WHOLE
    assert chosen(capsys) == sys.executable
    assert site.names() == []
    assert not (site.root / ".venv").exists()


def test_an_index_without_effect_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.versions = WHOLE
    monkeypatch.setenv("TORCH_INDEX", "https://elsewhere")
    monkeypatch.setattr(sys, "argv", ["environment.py"])
    environment.main()
    shown = capsys.readouterr()
    assert shown.out == f"{sys.executable}\n"
    assert shown.err.startswith("TORCH_INDEX has no effect")


def test_an_older_python_is_told_so(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(UnusableError, match=r"Python 3\.11 or newer"):
        chosen(capsys)
    assert site.names() == []


def test_a_bare_python_gets_everything_once(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen(capsys) == ".venv/bin/python"
    assert site.names() == ["venv", "pip torch numpy tqdm"]
    assert not (site.purelib / "python_at_hand.pth").exists()
    assert chosen(capsys) == ".venv/bin/python"
    assert site.names() == []
    # The tools of development come when they are asked for, and stay.
    chosen(capsys, "development")
    assert site.names() == ["pip ruff"]
    chosen(capsys)
    assert site.names() == []


def test_the_packages_of_the_report_are_announced_with_their_size(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TEXT.replace("# development", "# report\nscipy==1.17.1\n\n# development")
    (site.root / "requirements.txt").write_text(text)
    for group, told in (("runtime", False), ("report", True), ("report", False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["environment.py", group])
            environment.main()
        line = "installing scipy==1.17.1 (the report draws and tests with them: 60 MB to download"
        assert (line in capsys.readouterr().err) == told


@pytest.mark.parametrize(
    ("terminal", "package", "quiet"),
    [(True, "scipy==1.17.1", True), (True, "torch==2.13.0", False), (False, "torch==2.13.0", True)],
)
def test_pip_shows_its_output_only_of_torch_on_a_terminal(
    terminal: bool, package: str, quiet: bool, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    environment.pip(site.root / ".venv" / "bin" / "python", [package])
    (command,) = site.commands
    assert ("-q" in command) == quiet


def test_the_path_is_printed_whole_from_elsewhere(
    site: Site, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert chosen(capsys) == str(site.root / ".venv" / "bin" / "python")


def test_a_torch_at_hand_is_shared(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.versions = {"torch": "2.11.0+rocm7.0"}
    chosen(capsys)
    assert site.names() == ["venv", "pip numpy tqdm"]
    shared = (site.purelib / "python_at_hand.pth").read_text().splitlines()
    assert shared
    assert all(Path(folder).name in ("site-packages", "dist-packages") for folder in shared)
    assert str(Path(pytest.__file__).parents[1]) in shared


def test_a_torch_that_is_too_old_is_not_shared(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.versions = {"torch": "2.1.0"}
    chosen(capsys)
    assert site.names() == ["venv", "pip torch numpy tqdm"]
    assert not (site.purelib / "python_at_hand.pth").exists()


def test_a_torch_that_turns_up_later_is_taken(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen(capsys)
    site.names()
    site.versions = {"torch": "2.11.0+rocm7.0"}
    chosen(capsys)
    assert site.names() == ["venv", "pip numpy tqdm"]
    # A Python without a torch goes on with the .venv that shares one: no ping-pong.
    site.versions = {}
    site.venv["torch"] = "shared"
    chosen(capsys)
    assert site.names() == []


def test_another_index_is_for_torch_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen(capsys)
    assert site.names() == ["venv", "pip torch numpy tqdm"]
    monkeypatch.setenv("TORCH_INDEX", "https://rocm")
    chosen(capsys)
    assert site.names() == ["venv", "pip from:https://rocm torch", "pip numpy tqdm"]
    chosen(capsys)
    assert site.names() == []
    monkeypatch.delenv("TORCH_INDEX")
    chosen(capsys)
    assert site.names() == []


@pytest.mark.parametrize("where", ["venv", "sysconfig", "pip"])
def test_what_was_interrupted_is_completed(
    where: str, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.versions = {"torch": "2.11.0"}
    whole = site.run

    def interrupted(command: list[str], *more: Any, **named: Any) -> str:
        found = whole(command, *more, **named) if where != "pip" or "pip" not in command else ""
        if where in command or (where == "sysconfig" and "sysconfig" in command[-1]):
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(environment, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chosen(capsys)
    site.names()
    monkeypatch.setattr(environment, "run", whole)
    assert chosen(capsys) == ".venv/bin/python"
    # A .venv that was made to its end is kept; one that was not is made anew.
    assert site.names() == [*([] if where == "pip" else ["venv"]), "pip numpy tqdm"]
    assert (site.purelib / "python_at_hand.pth").exists()


def test_another_python_gets_a_venv_of_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen(capsys)
    assert (site.root / ".venv" / "made-for").read_text().startswith(f"{VERSION}\n")
    site.names()
    here = sys.version_info
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert chosen(capsys) == ".venv-3.99/bin/python"
    assert site.names() == ["venv", "pip torch numpy tqdm"]
    # Each is left alone by the other.
    assert chosen(capsys) == ".venv-3.99/bin/python"
    assert site.names() == []
    assert (site.root / ".venv" / "made-for").read_text().startswith(f"{VERSION}\n")
    monkeypatch.setattr(sys, "version_info", here)
    assert chosen(capsys) == ".venv/bin/python"
    assert site.names() == []


def test_a_venv_that_make_did_not_make_is_used_or_left_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (site.root / ".venv" / "bin").mkdir(parents=True)
    (site.root / ".venv" / "bin" / "python").touch()
    (site.root / ".venv" / "pyvenv.cfg").write_text(f"home = /usr\nversion = {VERSION}.7\n")
    assert chosen(capsys) == ".venv/bin/python"
    assert site.names() == ["pip torch numpy tqdm"]
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert chosen(capsys) == ".venv-3.99/bin/python"


def test_a_link_to_a_venv_is_removed_and_never_what_it_leads_to(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = site.root / "theirs"
    theirs.mkdir()
    (site.root / ".venv").symlink_to(theirs)
    (theirs / "kept").touch()
    assert chosen(capsys) == ".venv/bin/python"
    assert (theirs / "kept").exists()


def test_pip_installs_into_the_venv_whatever_its_settings(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror")
    chosen(capsys)
    assert site.environment is not None
    assert site.environment["PIP_USER"] == "0"
    assert "PIP_TARGET" not in site.environment
    assert site.environment["PIP_INDEX_URL"] == "https://mirror"


def test_an_installation_that_went_elsewhere_is_no_success(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.elsewhere = True  # as by target = ... in a pip.conf
    with pytest.raises(UnusableError, match=r"still lacks torch==2\.13\.0.*pip config list"):
        chosen(capsys)


def test_the_venv_itself_may_be_the_python_at_hand(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen(capsys)
    site.names()
    site.venv.pop("tqdm")
    monkeypatch.setattr(sys, "prefix", str(site.root / ".venv"))
    monkeypatch.setenv("TORCH_INDEX", "https://rocm")
    chosen(capsys)
    # It cannot clear itself away under its own feet.
    assert site.names() == ["pip tqdm"]


@pytest.mark.parametrize(
    ("fails", "message"), [("venv", "python3-venv"), ("pip", "without a network")]
)
def test_failures_say_what_to_do(
    fails: str, message: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.fails = fails
    with pytest.raises(UnusableError, match=message):
        chosen(capsys)
    assert capsys.readouterr().out == ""


def test_a_command_that_fails_is_an_error() -> None:
    assert environment.run([sys.executable, "-c", "print(3)"]) == "3\n"
    with pytest.raises(UnusableError, match="too bad"):
        environment.run([sys.executable, "-c", "raise SystemExit(1)"], "too bad")


def test_lacking_asks_the_other_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.txt").write_text("# runtime\npytest==0.1\nno-such-package==1\n")
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    source = (REPOSITORY / "scripts" / "environment.py").read_text()
    (scripts / "environment.py").write_text(source)
    monkeypatch.setattr(environment, "REPOSITORY", tmp_path)
    python = Path(sys.executable)
    assert environment.lacking(python, "runtime") == ["no-such-package==1"]
    (tmp_path / "requirements.txt").write_text("# runtime\npytest==0.1\n")
    assert environment.lacking(python, "runtime") == []


def test_it_runs_without_any_package() -> None:
    # -I -S: no site-packages, no environment, as a bare machine has it.
    command = [sys.executable, "-I", "-S", "-c", "import runpy, sys; runpy.run_path(sys.argv[1])"]
    script = str(REPOSITORY / "scripts" / "environment.py")
    done = subprocess.run([*command, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
