"""The folder is the registry: a plug-in is one file and one Kconfig entry."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2.config import plugins
from gpt2.config.errors import UserError
from gpt2.config.options import Options
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
    assert caught.value.messages == (
        "'heavy' needs the Python package 'a_package_nobody_has': "
        "install it with python3 -m pip install a_package_nobody_has",
    )


def test_a_mistake_of_ours_is_no_missing_package(package: Path) -> None:
    (package / "wrong.py").write_text('"""A plug-in."""\nimport gpt2.no_such_module\n')
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        plugins.load("some_plugins", "wrong")


def test_a_file_and_a_kconfig_entry_make_a_plugin(tmp_path: Path) -> None:
    """Nothing else names a plug-in: a copy of the tree learns a new one by these two."""
    ignored = shutil.ignore_patterns("__pycache__", "vocabulary")
    shutil.copytree(REPOSITORY / "gpt2", tmp_path / "gpt2", ignore=ignored)
    shutil.copy(REPOSITORY / "Kconfig", tmp_path)
    (tmp_path / "gpt2" / "optim" / "optimizers" / "two_words.py").write_text(PLUGIN)
    kconfig = tmp_path / "gpt2" / "optim" / "Kconfig"
    entry = 'config OPTIMIZER_TWO_WORDS\n\tbool "Two words"\n\tdepends on !DETERMINISTIC\n\n'
    own = (
        'config TWO_WORDS_STRENGTH\n\tstring "S"\n\tdepends on OPTIMIZER_TWO_WORDS\n\tdefault "1"\n'
    )
    text = kconfig.read_text().replace(
        "config OPTIMIZER_SGD\n", entry + "config OPTIMIZER_SGD\n", 1
    )
    kconfig.write_text(text.replace("\nendmenu", f"\n{own}\nendmenu", 1))

    def check(*flags: str) -> str:
        command = [sys.executable, "gpt2/train.py", "--check-config", *flags]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stderr

    chosen = ("--optimizer", "two-words")
    assert check(*chosen, "--two-words-strength", "0.5") == ""
    assert check(*chosen, "--two-words-strength", "2") == (
        "train.py: error: --two-words-strength: 2 is outside [0, 1]\n"
    )
    assert check("--two-words-strength", "0.5") == (
        "train.py: error: --two-words-strength has no effect here: it needs OPTIMIZER_TWO_WORDS\n"
    )
    assert check(*chosen, "--deterministic") == (
        "train.py: error: --optimizer: 'two-words' cannot be chosen here: it needs !DETERMINISTIC\n"
    )
