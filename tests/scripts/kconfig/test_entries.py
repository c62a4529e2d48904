"""What the menus show of an entry: main values behind the titles, help first, words to search."""

from __future__ import annotations

from typing import Any

import kconfiglib as kc
import pytest

from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from scripts.kconfig import entries, menus

ARROW = "  --->"


@pytest.fixture
def tree() -> menus.MenuTree:
    return menus.MenuTree(ROOT_TREE)


def menu_of(tree: menus.MenuTree, title: str) -> kc.MenuNode:
    return next(node for node in tree.menus if node.prompt[0] == title)


def test_every_menu_of_the_top_shows_its_main_values(tree: menus.MenuTree) -> None:
    titles = [node.prompt[0] for node in tree.menus if node.parent is tree.top_node]
    assert titles == list(entries.GLANCE)
    for title in titles:
        shown = entries.with_values(tree, menu_of(tree, title), f"    {title}{ARROW}")
        assert shown.startswith(f"    {title} (")
        assert shown.endswith(f"){ARROW}")
        assert len(shown) <= 80, shown


def test_the_values_behind_a_title_follow_the_options(tree: menus.MenuTree) -> None:
    assert entries.glance(tree, "Optimizer") == "adamw, learning rate 6e-4"
    tree.syms["OPTIMIZER_MUON"].set_value("y")
    assert entries.glance(tree, "Optimizer") == "muon, learning rate 0.03"
    tree.syms["OPTIMIZER_LIBRARY"].set_value("y")
    assert entries.glance(tree, "Optimizer") == "library, po:soap"
    assert entries.glance(tree, "Pruning") == "none"
    tree.syms["PRUNING_METHOD_MAGNITUDE"].set_value("y")
    assert entries.glance(tree, "Pruning") == "magnitude, sparsity 0.5"
    assert entries.glance(tree, "Data") == "shakespeare"
    tree.syms["DATASET_TEXT"].set_value("y")
    assert entries.glance(tree, "Data") == "text, tokenizer gpt2"
    assert entries.glance(tree, "Training") == "batch 32 x 1, epochs 1"
    tree.syms["MAX_STEPS"].set_value("70")
    assert entries.glance(tree, "Training") == "batch 32 x 1, steps 70"
    assert entries.glance(tree, "Slurm") == ""


def test_values_too_long_for_a_row_are_cut(tree: menus.MenuTree) -> None:
    tree.syms["MATRIX_OPTIMIZERS"].set_value(" ".join(Options().members("OPTIMIZER")))
    shown = entries.with_values(tree, menu_of(tree, "Test matrix"), f"    Test matrix{ARROW}")
    assert shown.endswith(f"...){ARROW}")
    assert len(shown) == 78


def test_other_entries_are_as_they_were(tree: menus.MenuTree) -> None:
    (node,) = tree.syms["SEED"].nodes
    assert entries.with_values(tree, node, "(1337) Random seed (NEW)") == "(1337) Random seed"
    assert entries.with_values(tree, menu_of(tree, "Slurm"), "    Slurm") == "    Slurm"


@pytest.fixture
def menu(tree: menus.MenuTree, monkeypatch: pytest.MonkeyPatch) -> Any:
    """kconfiglib's menu on a terminal, improved, without the terminal."""
    import menuconfig

    for name in ("_node_str", "_info_str", "_help_info", "_choice_syms_info"):
        monkeypatch.setattr(menuconfig, name, getattr(menuconfig, name))
    monkeypatch.setattr(menuconfig, "_kconf", tree, raising=False)
    entries.improve(menuconfig, tree, Options().names())
    return menuconfig


def test_the_help_of_an_entry_stands_first_and_fits_a_terminal(
    menu: Any, tree: menus.MenuTree
) -> None:
    for symbol in tree.unique_defined_syms:
        for node in symbol.nodes:
            if not node.prompt:
                continue
            lines = menu._info_str(node).splitlines()
            assert lines[:2] == [node.prompt[0], ""]
            said = " ".join(lines[2:]).partition("Name:")[0]
            said = said.partition("Flag:")[0]
            assert " ".join(said.split()) == " ".join((node.help or "").split())
            assert max(map(len, lines[: lines.index(f"Name: {symbol.name}")])) <= 80


def test_the_help_names_the_flag(menu: Any, tree: menus.MenuTree) -> None:
    assert "Flag: --learning-rate\n" in menu._info_str(tree.syms["LEARNING_RATE"].nodes[0])
    assert "Flag: --optimizer muon\n" in menu._info_str(tree.syms["OPTIMIZER_MUON"].nodes[0])
    assert "Flag: --sparsity-pattern 2:4\n" in menu._info_str(
        tree.syms["SPARSITY_PATTERN_2_4"].nodes[0]
    )
    assert "Flag:" not in menu._info_str(tree.syms["MATRIX_NAME"].nodes[0])


def test_the_values_of_a_choice_have_words(menu: Any, tree: menus.MenuTree) -> None:
    told = menu._info_str(tree.named_choices["DATASET"].nodes[0])
    assert "  * shakespeare       Tiny Shakespeare, GPT-2 tokens\n" in told
    assert "  - shakespeare-char  Tiny Shakespeare, characters\n" in told
    order = ["The text to train on", "Flag: --dataset", "Values (*: chosen):", "Name: DATASET"]
    assert sorted(order, key=told.index) == order
    assert "Choice symbols" not in told


#: What people type after / in the menu.
WORDS = """
    OOM NaN resume skip shard LR seed mixed bf16 RAM GPU validation fine-tune checkpointing dataset
    tensorboard wandb epoch limit clip warmup DDP compile embedding hang
"""


def test_the_menu_finds_the_words_people_search_for(tree: menus.MenuTree) -> None:
    nodes = [n for item in (*tree.unique_defined_syms, *tree.unique_choices) for n in item.nodes]
    texts = [f"{n.item.name}\n{n.prompt[0]}".lower() for n in nodes if n.prompt]
    lost = [word for word in WORDS.split() if not any(word.lower() in text for text in texts)]
    assert lost == []
