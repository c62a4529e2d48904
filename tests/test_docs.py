"""Every command that README and docs/ show is one that exists."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2 import evaluate, export, prepare_data, sample
from gpt2.config.actions import (
    EvaluateActions,
    ExportActions,
    NoActions,
    PrepareActions,
    SampleActions,
    TrainActions,
)
from gpt2.config.bind import bind
from gpt2.config.cli import parse, split_at_dashes
from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from scripts import bench, matrix, options_page, report
from tests.support import tiny

PAGES = [tiny.REPOSITORY / "README.md", *sorted((tiny.REPOSITORY / "docs").glob("*.md"))]
ENTRIES = {
    "train.py": (TrainActions, None),
    "prepare_data.py": (PrepareActions, prepare_data.OPTIONS),
    "sample.py": (SampleActions, sample.OPTIONS),
    "evaluate.py": (EvaluateActions, evaluate.OPTIONS),
    "export.py": (ExportActions, export.OPTIONS),
}


def commands() -> list[str]:
    """Return every command of the pages: indented lines, and `code` that begins with one."""
    found: list[str] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^    ((?:make|python3) ?[^#\n]*)", text, re.MULTILINE)
        inline = re.findall(r"`((?:make|python3 gpt2/)[^`]*)`", text.replace("\n", " "))
        found += [command.strip() for command in blocks + inline if "..." not in command]
    return sorted(set(found))


def test_there_are_commands() -> None:
    assert len([c for c in commands() if c.startswith("make")]) > 10
    assert len([c for c in commands() if c.startswith("python3")]) > 4


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("make")])
def test_make_knows_it(command: str) -> None:
    done = subprocess.run(
        [*shlex.split(command), "-n"], cwd=tiny.REPOSITORY, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for flag in re.findall(r"ARGS=[\"'](.*)[\"']", command):
        words = shlex.split(flag)
        if "make torture" in command:  # no entry, but a program of the tests
            torture = [sys.executable, "tests/faults/torture.py", *words, "--help"]
            assert subprocess.run(torture, cwd=tiny.REPOSITORY, check=False).returncode == 0
            continue
        entry = "sample.py" if "make sample" in command else "train.py"
        entry = "prepare_data.py" if "make prepare" in command else entry
        entry = "export.py" if "make export" in command else entry
        entry = "evaluate.py" if "make evaluate" in command else entry
        accepts(entry, words)
    for option in re.findall(r"OPTION=(\S+)", command):
        assert option == "NAME" or option.upper().replace("-", "_") in Options().names()


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python3")])
def test_the_entry_takes_its_flags(command: str) -> None:
    _, script, *arguments = shlex.split(command)
    accepts(Path(script).name, arguments)


def accepts(entry: str, arguments: list[str]) -> None:
    """Parse `arguments` as the entry does; raises UserError for a flag that does not exist."""
    if entry in ("matrix.py", "bench.py"):
        own, more = split_at_dashes(arguments)
        (matrix if entry == "matrix.py" else bench).parser().parse_args(own)
        bind(parse(entry, "", more, NoActions)[0])
        return
    actions, names = ENTRIES[entry]
    if arguments == ["--help"]:
        return
    if entry in ("sample.py", "evaluate.py", "export.py") and "--run" not in arguments:
        arguments = ["--run", "runs/latest", *arguments]
    options, given = parse(entry, "", arguments, actions, names)
    if isinstance(given, PrepareActions) and (given.input or given.adopt):
        options.give("DATASET", "text", "--dataset")
    bind(options)


def flags_of_pages() -> dict[str, set[str]]:
    """Return the flags that stand by themselves as `--flag`, by page."""
    found = {
        page.name: re.findall(r"`(--[a-z][a-z0-9-]*)", page.read_text("utf-8")) for page in PAGES
    }
    found["extending.md"].remove("--signum-momentum")  # its examples are made up
    return {name: set(flags) for name, flags in found.items()}


def test_every_flag_that_pages_name_exists() -> None:
    parsers = (bench.parser(), matrix.parser(), report.parser())
    known = {
        text for parser in parsers for action in parser._actions for text in action.option_strings
    }
    known |= {flag_of(name) for name in Options().names()}
    kinds = [actions for actions, _ in ENTRIES.values()]
    known |= {flag_of(field.name) for kind in kinds for field in dataclasses.fields(kind)}
    known |= {"--part", "--times"}  # of tests/faults/torture.py
    known |= {"--system-site-packages", "--requeue", "--network"}  # of venv, sbatch, docker
    known |= {
        "--cpus-per-task",
        "--gres",
        "--mem",
        "--signal",
        "--time",
        "--network",
    }  # of sbatch, docker
    for page, flags in flags_of_pages().items():
        unknown = {flag for flag in flags if flag.replace("--no-", "--") not in known}
        assert unknown - known == set(), page


def test_every_defconfig_is_listed_with_a_line() -> None:
    for path in (tiny.REPOSITORY / "defconfigs").iterdir():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert re.fullmatch(r"# \S.{10,90}", first), path.name


@functools.cache
def templates() -> list[str]:
    """Return every text in the sources, with a mark where a value goes."""
    found: list[str] = []
    for path in [*tiny.REPOSITORY.glob("gpt2/**/*.py"), *tiny.REPOSITORY.glob("scripts/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                found.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted_messages() -> list[str]:
    """The messages of the page: indented lines, and what stands first in a row of a table."""
    text = (tiny.REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (?:\w+\.py: error: |warning: |)((?!make|python3)\S.*)$", text, re.M)
    cells = re.findall(r"^\| (`[^|]*`) (?:\||$)", text, re.M)
    quotes = [quote for cell in cells for quote in re.findall(r"`([^`]+)`", cell)]
    return lines + [re.sub(r"^(?:\w+\.py: error: |warning: )", "", one) for one in quotes]


def test_messages_are_quoted() -> None:
    assert len(quoted_messages()) >= 10


@pytest.mark.parametrize("message", quoted_messages())
def test_the_program_says_what_the_page_quotes(message: str) -> None:
    sources = templates()
    # One message may be put into another: the joints are where a value goes, semicolons and "and".
    parts = [part.strip(" :;(),") for part in re.split(r"\.\.\.|;|, and ", message)]
    pieces = [part for part in parts if len(part.strip("-")) > 1]
    assert pieces
    for piece in pieces:
        assert any(piece in source for source in sources), piece


def test_the_worked_examples_are_the_files_that_are_tested() -> None:
    text = (tiny.REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^`gpt2/[\w/]+/(\w+\.\w+)`:\n\n```\w+\n(.*?)^```$", text, re.M | re.S))
    added = tiny.REPOSITORY / "tests" / "support" / "added"
    files = {path.name: path.read_text(encoding="utf-8") for path in added.glob("*/*.*")}
    assert shown == files


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*tiny.REPOSITORY.glob("*.md"), *(tiny.REPOSITORY / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_that_pages_name_are_there() -> None:
    pages = [*tiny.REPOSITORY.glob("*.md"), *(tiny.REPOSITORY / "docs").glob("*.md")]
    pages.remove(tiny.REPOSITORY / "docs" / "extending.md")  # its examples are made up
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:gpt2|scripts|tests|docs)/[\w./-]+\.\w+)`", text):
            if "NAME" not in name:
                assert (tiny.REPOSITORY / name).exists(), f"{page.name}: {name}"
        rooms = "|".join(
            path.name for path in (tiny.REPOSITORY / "gpt2").iterdir() if path.is_dir()
        )
        for name in re.findall(rf"`((?:{rooms})/[\w./-]+\.py)`", text):
            assert (tiny.REPOSITORY / "gpt2" / name).exists(), f"{page.name}: {name}"


def test_every_option_is_on_its_page() -> None:
    page = tiny.REPOSITORY / "docs" / "options.md"
    assert options_page.main(["--check", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    for name in Options().names():
        assert f"**`{flag_of(name)}`**" in text, name
    with pytest.raises(UserError, match="make options-page writes it"):
        options_page.main(["--check", str(tiny.REPOSITORY / "README.md")])


def test_the_readme_is_one_page() -> None:
    text = (tiny.REPOSITORY / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120
    assert len(text.split()) <= 1000
