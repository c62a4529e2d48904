"""The folder is the registry: a plug-in is NAME.py and NAME.Kconfig, and nothing else."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import kconfiglib
import pytest

from gpt2.config import plugins
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.schema import TRAIN_TREE
from gpt2.config.typed import PLUGIN_PACKAGES
from tests.conftest import REPOSITORY

PLUGIN = '''"""A plug-in of a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import a_package_nobody_has
from gpt2.config.typed import Within

LIMIT = a_package_nobody_has.LIMIT


@dataclass(frozen=True)
class Options:
    """Its options."""

    strength: Annotated[float, Within("[0, 1]")]
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `some_plugins` that can be imported."""
    folder = tmp_path / "some_plugins"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("some_plugins"):
            del sys.modules[name]
    plugins.options_class.cache_clear()


@pytest.mark.parametrize(("choice", "package_name"), PLUGIN_PACKAGES.items())
def test_a_choice_lists_exactly_the_files(choice: str, package_name: str) -> None:
    assert sorted(Options().members(choice)) == plugins.names(package_name)


@pytest.mark.parametrize("package_name", PLUGIN_PACKAGES.values())
def test_every_plugin_is_two_files(package_name: str) -> None:
    folder = REPOSITORY.joinpath(*package_name.split("."))
    files = {path.name for path in folder.iterdir() if path.is_file()} - {"__init__.py"}
    stems = [name.replace("-", "_") for name in plugins.names(package_name)]
    assert files == {stem + ending for stem in stems for ending in (".py", ".Kconfig")}


def test_no_kconfig_file_knows_a_plugin_of_another() -> None:
    """A plug-in is named where it is, and where a choice has its general default, only."""
    tree = REPOSITORY / "gpt2"
    owner = {
        f"{choice}_{name.upper().replace('-', '_')}": (package, name)
        for choice, package in PLUGIN_PACKAGES.items()
        for name in plugins.names(package)
    }
    for path in tree.rglob("*Kconfig"):
        for line in path.read_text(encoding="utf-8").splitlines():
            for symbol in set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", line)) & owner.keys():
                package, name = owner[symbol]
                own = REPOSITORY.joinpath(*package.split("."), f"{name.replace('-', '_')}.Kconfig")
                # The null object is what options are hidden by.
                general = line == f"\tdefault {symbol}" or symbol == "PRUNING_METHOD_NONE"
                assert path == own or general, f"{path}: {line.strip()}"


def test_a_default_for_another_option_is_for_the_plugin_alone() -> None:
    """Without a condition it would be the default of every plug-in."""
    raw = kconfiglib.Kconfig(str(TRAIN_TREE), warn_to_stderr=False)
    added = [
        (node, when)
        for item in (*raw.unique_defined_syms, *raw.unique_choices)
        for node in item.nodes
        if node.filename.endswith(".Kconfig") and not node.prompt
        for _, when in node.defaults
    ]
    assert len(added) > 20
    for node, when in added:
        assert when is not raw.y, f"{node.filename}:{node.linenr}"


@pytest.mark.parametrize("choice", PLUGIN_PACKAGES)
def test_a_plugin_says_what_it_is(choice: str) -> None:
    options = Options()
    for name, symbol in options.members(choice).items():
        (node,) = options.symbols[symbol].nodes
        assert (node.help or "").strip().endswith("."), name


@pytest.mark.parametrize("package_name", PLUGIN_PACKAGES.values())
def test_options_are_frozen_and_without_defaults(package_name: str) -> None:
    for name in plugins.names(package_name):
        kind = plugins.options_class(package_name, name)
        if kind is not None:
            assert dataclasses.is_dataclass(kind)
            assert kind.__dataclass_params__.frozen, name
            assert all(f.default is dataclasses.MISSING for f in dataclasses.fields(kind)), name


def test_options_are_those_of_the_module() -> None:
    package_name = PLUGIN_PACKAGES["OPTIMIZER"]
    light = plugins.options_class(package_name, "sgd")
    whole = plugins.load(package_name, "sgd").Options
    assert light is not None
    assert [f.name for f in dataclasses.fields(light)] == [
        f.name for f in dataclasses.fields(whole)
    ]
    with pytest.raises(ValueError, match="--sgd-nesterov needs"):
        light(momentum=0.0, nesterov=True)


def test_an_unknown_plugin_names_those_there_are() -> None:
    package_name = PLUGIN_PACKAGES["OPTIMIZER"]
    with pytest.raises(UserError, match=r"no plug-in 'adamv' in ") as caught:
        plugins.load(package_name, "adamv")
    assert str(caught.value).endswith(f": {', '.join(plugins.names(package_name))}")


def test_names_are_files_with_dashes(package: Path) -> None:
    for name in ("one.py", "two_words.py", "_private.py", "notes.txt"):
        (package / name).write_text('"""A plug-in."""\nVALUE = __name__\n')
    assert plugins.names("some_plugins") == ["one", "two-words"]
    assert plugins.load("some_plugins", "two-words").VALUE == "some_plugins.two_words"
    assert plugins.options_class("some_plugins", "one") is None
    assert plugins.options_class("some_plugins", "three") is None


def test_options_are_read_without_the_plugin(package: Path) -> None:
    (package / "heavy.py").write_text(PLUGIN)
    kind = plugins.options_class("some_plugins", "heavy")
    assert kind is not None
    assert kind(strength=0.5).strength == 0.5
    assert "some_plugins.heavy" not in sys.modules


def test_a_missing_package_is_named_to_whoever_asked(package: Path) -> None:
    (package / "heavy.py").write_text(PLUGIN)
    (package / "light.py").write_text('"""A plug-in."""\n')
    plugins.load("some_plugins", "light")
    with pytest.raises(UserError) as caught:
        plugins.load("some_plugins", "heavy")
    (message,) = caught.value.messages
    assert message.startswith("'heavy' needs the Python package 'a_package_nobody_has': install it")
    # This Python, not any python3.
    assert message.endswith("/python -m pip install a_package_nobody_has")


def test_a_mistake_of_ours_is_no_missing_package(package: Path) -> None:
    (package / "wrong.py").write_text('"""A plug-in."""\nimport gpt2.no_such_module\n')
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        plugins.load("some_plugins", "wrong")


@pytest.fixture
def tracked(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as that of the trackers, with a copy of the null tracker that they all need."""
    monkeypatch.setitem(PLUGIN_PACKAGES, "TRACKER", "some_plugins")
    (package / "none.py").touch()
    (package / "none.Kconfig").touch()
    return package


def complaints(value: str) -> list[str]:
    options = Options()
    options.give("TRACKER", value, "--tracker")
    return options.check()


def test_a_module_without_its_kconfig_file_is_named(tracked: Path, tmp_path: Path) -> None:
    (tracked / "two_words.py").touch()
    lack = "some_plugins/two_words.Kconfig is missing beside two_words.py: a plug-in is both files"
    assert complaints("two-words") == [f"--tracker 'two-words': {lack}"]
    lines = tmp_path / ".config"
    lines.write_text("CONFIG_TRACKER_TWO_WORDS=y\nCONFIG_TRACKER_TREE_WORDS=y\n")
    options = Options()
    options.read(lines)
    half, unknown = options.check()
    assert half == f"{lines}:1: CONFIG_TRACKER_TWO_WORDS is unknown: {lack}"
    assert unknown.startswith(f"{lines}:2: CONFIG_TRACKER_TREE_WORDS is unknown; did you mean ")


def test_a_kconfig_file_that_adds_nothing_is_named(tracked: Path) -> None:
    (tracked / "two_words.py").touch()
    (tracked / "two_words.Kconfig").touch()
    assert complaints("two-words") == [
        "--tracker 'two-words': some_plugins/two_words.Kconfig does not add TRACKER_TWO_WORDS to "
        "TRACKER"
    ]


def test_a_kconfig_file_without_its_module_is_named(tracked: Path, tmp_path: Path) -> None:
    (tracked / "wandb.Kconfig").touch()
    lack = "some_plugins/wandb.py is missing beside wandb.Kconfig: a plug-in is both files"
    assert complaints("wandb") == [f"--tracker 'wandb': {lack}"]
    lines = tmp_path / ".config"
    lines.write_text("CONFIG_TRACKER_WANDB=y\n")
    options = Options()
    options.read(lines)
    assert options.check() == [f"{lines}:1: CONFIG_TRACKER_WANDB: {lack}"]
    with pytest.raises(UserError, match=re.escape(lack)):
        plugins.load("some_plugins", "wandb")


def test_literal_constants_are_read_without_the_plugin(package: Path) -> None:
    (package / "heavy.py").write_text(PLUGIN + 'NAMES = ("a", "b")\nA, B = 1, 2\nNAMES[0]\n')
    assert plugins.constants("some_plugins", "heavy") == {"NAMES": ("a", "b")}
    assert "some_plugins.heavy" not in sys.modules
