"""Several definitions of one option or choice become one, wherever its plug-ins add to it."""

from __future__ import annotations

from pathlib import Path

import kconfiglib as kc
import pytest

from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE, TRAIN_TREE
from gpt2.config.tree import Kconfig

PARENT = """mainmenu "a small tree"
choice RULE
	prompt "Rule"
	default RULE_PLAIN
	help
		How it is done.
endchoice

rsource "rules/*.Kconfig"
orsource "none_of_these/*.Kconfig"

config FAST
	bool "Fast"
	default y

config RATE
	string "Rate"
	depends on FAST
	default "1" if SMALL
	default "2"
	help
		How fast it is.

config SMALL
	bool "Small"
"""
PLAIN = """choice RULE

config RULE_PLAIN
	bool "plain"

endchoice

choice BASE

config BASE_PLAIN
	bool "plain"

endchoice

if RULE_PLAIN || BASE_PLAIN

config PLAIN_EDGE
	int "Plain: edge"
	default 3

endif
"""
FANCY = """choice RULE

config RULE_FANCY
	bool "fancy"

endchoice

if RULE_FANCY

config RATE
	default "9" if SMALL
	default "5"

endif
"""
WRAPPED = """choice RULE

config RULE_WRAPPED
	bool "wrapped"

endchoice

choice BASE
	prompt "Base"
	depends on RULE_WRAPPED
	default BASE_PLAIN
	help
		What is wrapped.

config BASE_OWN
	bool "own"

endchoice
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rules = tmp_path / "rules"
    rules.mkdir()
    (tmp_path / "Kconfig").write_text(PARENT)
    for name, text in (("plain", PLAIN), ("fancy", FANCY), ("wrapped", WRAPPED)):
        (rules / f"{name}.Kconfig").write_text(text)
    return tmp_path / "Kconfig"


def shown(node: kc.MenuNode | None) -> list[object]:
    """The menu below a node: names, each with what is below it."""
    found: list[object] = []
    while node:
        inside = shown(node.list)
        found.append((node.item.name, inside) if inside else node.item.name)
        node = node.next
    return found


def value(path: Path, **given: str) -> str | None:
    options = Options(path)
    for name, text in given.items():
        options.give(name, text, name)
    assert options.check() == []
    return options.value("RATE")


def test_the_menu_shows_each_choice_once_with_all_its_members(tree: Path) -> None:
    assert shown(Kconfig(tree).top_node.list) == [
        ("RULE", ["RULE_PLAIN", "RULE_FANCY", "RULE_WRAPPED"]),  # the default, then by file
        ("BASE", ["BASE_PLAIN", "BASE_OWN"]),  # before what depends on its members
        "PLAIN_EDGE",
        ("FAST", ["RATE"]),
        "SMALL",
    ]


def test_text_and_place_are_of_the_definition_with_the_prompt(tree: Path) -> None:
    kconfig = Kconfig(tree)
    (base,) = kconfig.named_choices["BASE"].nodes
    assert (base.prompt[0], base.help) == ("Base", "What is wrapped.")
    assert base.filename.endswith("wrapped.Kconfig")
    (rate,) = kconfig.syms["RATE"].nodes
    assert (rate.prompt[0], rate.help) == ("Rate", "How fast it is.")
    assert rate.filename.endswith("/Kconfig")
    # All defaults are shown there, in the order in which they count.
    assert [default.name for default, _ in rate.orig_defaults] == ["9", "5", "1", "2"]


def test_a_plugins_default_comes_before_the_general_ones(tree: Path) -> None:
    assert value(tree) == "2"
    assert value(tree, SMALL="y") == "1"
    assert value(tree, RULE="fancy") == "5"
    assert value(tree, RULE="fancy", SMALL="y") == "9"


def test_a_plugins_default_does_not_open_a_closed_option(tree: Path) -> None:
    assert value(tree, FAST="n") is None
    assert value(tree, RULE="fancy", FAST="n") is None
    options = Options(tree)
    options.give("RULE", "fancy", "--rule")
    options.give("FAST", "n", "--fast")
    options.give("RATE", "7", "--rate")
    assert options.check() == ["--rate has no effect here: it needs --fast"]
    assert "RATE" not in options.full_text()


def test_a_choice_of_a_plugin_is_extended_by_others(tree: Path) -> None:
    options = Options(tree)
    assert options.names() == ["RULE", "BASE", "PLAIN_EDGE", "FAST", "RATE", "SMALL"]
    assert options.value("BASE") is None
    assert options.value("PLAIN_EDGE") == "3"
    options.give("RULE", "wrapped", "--rule")
    assert options.value("BASE") == "plain"
    assert options.value("PLAIN_EDGE") == "3"
    options.give("BASE", "own", "--base")
    assert options.value("PLAIN_EDGE") is None
    assert options.check() == []
    assert options.minimal() == {"RULE": "wrapped", "BASE": "own"}


def test_a_file_is_written_in_the_order_of_the_menu(tree: Path) -> None:
    options = Options(tree)
    for name, text in (("RATE", "7"), ("RULE", "fancy"), ("SMALL", "y")):
        options.give(name, text, name)
    path = tree.parent / "minimal"
    options.kconfig.write_min_config(str(path), header="")
    lines = path.read_text().splitlines()
    assert lines == ["CONFIG_RULE_FANCY=y", 'CONFIG_RATE="7"', "CONFIG_SMALL=y"]
    assert [line for line in options.full_text().splitlines() if "=" in line] == [
        "CONFIG_RULE_FANCY=y", "CONFIG_FAST=y", 'CONFIG_RATE="7"', "CONFIG_SMALL=y",
    ]  # fmt: skip


def test_two_prompts_are_a_mistake(tree: Path) -> None:
    with (tree.parent / "rules" / "fancy.Kconfig").open("a") as file:
        file.write('\nconfig RATE\n\tstring "Rate of the fancy"\n')
    with pytest.raises(AssertionError, match=r"RATE has several prompts: \S+fancy.Kconfig:\d+, "):
        Kconfig(tree)


@pytest.mark.parametrize("path", [TRAIN_TREE, ROOT_TREE], ids=["train", "root"])
def test_every_option_stands_in_the_menu_once(path: Path) -> None:
    kconfig = Kconfig(path)
    items = [node.item for node in kconfig.node_iter() if node.item not in (kc.MENU, kc.COMMENT)]
    assert len(items) == len(set(items))
    for node in kconfig.node_iter():
        assert node.item in (kc.MENU, kc.COMMENT) or node.item.nodes == [node]
        assert node.parent is kconfig.top_node or node.parent.item
        if isinstance(node.item, kc.Choice):
            inside = [child.item for child in children(node)]
            assert inside == node.item.syms
            assert all(symbol.choice is node.item for symbol in inside)
    assert set(items) == {*kconfig.unique_defined_syms, *kconfig.unique_choices}


def children(node: kc.MenuNode) -> list[kc.MenuNode]:
    found, child = [], node.list
    while child:
        assert child.parent is node
        found.append(child)
        child = child.next
    return found


def test_the_menu_begins_with_the_default_of_each_plugin_choice() -> None:
    options = Options()
    first = {name: next(iter(options.members(name))) for name in options.choices}
    assert first["OPTIMIZER"] == "adamw"
    assert first["PRUNING_METHOD"] == first["TRACKER"] == "none"
    assert first["DATASET"] == "shakespeare"
    for name in ("OPTIMIZER", "PRUNING_METHOD", "TRACKER", "DATASET"):
        rest = [*options.members(name)][1:]
        assert rest == sorted(rest)
