"""Without a .config the tools speak of what `make` would train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt2.config.errors import UserError
from scripts import flags, kconf
from scripts.kconfig import menus, search, show, start

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def rate() -> str:
    """Return the learning rate that `make` would train with."""
    found = flags.flags(start.DEFCONFIGS / start.CPU_DEFCONFIG)
    return found[found.index("--learning-rate") + 1]


def test_explain_without_a_config(tmp_path: Path, capsys: Captured) -> None:
    show.explain(tmp_path / ".config", "learning-rate")
    shown = capsys.readouterr()
    assert f"value: {rate()}\n" in shown.out
    assert shown.out.index("Peak rate of the schedule") < shown.out.index("value:")
    assert f"no .config: taking defconfigs/{start.CPU_DEFCONFIG} (no GPU)" in shown.err
    assert (shown.err.count("\n"), len(shown.err) < 100) == (1, True)


def test_an_error_is_the_only_line(tmp_path: Path, capsys: Captured) -> None:
    with pytest.raises(UserError, match="no such option"):
        show.explain(tmp_path / ".config", "lerning-rate")
    with pytest.raises(UserError, match="--bogus"):
        show.explain(tmp_path / ".config", "seed", ["--bogus"])
    assert capsys.readouterr() == ("", "")


def test_the_menu_without_a_config(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KCONFIG_CONFIG", str(tmp_path / ".config"))
    tree = menus.MenuTree(menus.ROOT_TREE)
    assert start.CPU_DEFCONFIG in tree.load_config()
    assert tree.syms["LEARNING_RATE"].str_value == rate()
    assert f"taking defconfigs/{start.CPU_DEFCONFIG}" in capsys.readouterr().err


def test_diffconfig_without_a_config(tmp_path: Path, capsys: Captured) -> None:
    config = tmp_path / ".config"
    with pytest.raises(UserError, match=r"no \.config\.old"):
        kconf._diff(config, "", "")
    kconf.olddefconfig(config)
    config.rename(tmp_path / ".config.old")
    capsys.readouterr()
    kconf._diff(config, "", "")
    assert capsys.readouterr().out == ""


def test_the_menu_warns_of_a_rate_of_another_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / ".config"
    kconf.defconfig(config, start.CPU_DEFCONFIG)  # Muon, 128 wide
    monkeypatch.setenv("KCONFIG_CONFIG", str(config))
    tree = menus.MenuTree(menus.ROOT_TREE)
    tree.load_config()
    tree.syms["OPTIMIZER_ADAMW"].set_value("y")
    said = tree.write_config(str(config))
    assert "saved to" in said.splitlines()[0]
    assert said.splitlines()[1:] == [
        f"warning: the learning rate {rate()}, chosen for muon, stays with",
        "adamw, whose default is 4e-3: set 4e-3 in the menu Optimizer",
    ]
    tree.syms["BATCH_SIZE"].set_value("9")
    assert "warning" not in tree.write_config(str(config))  # said once
    tree.syms["OPTIMIZER_LIBRARY"].set_value("y")
    tree.syms["OPTIMIZER_NAME"].set_value("po:soap")
    assert "library, which has no default: set yours" in tree.write_config(str(config))
    tree.syms["OPTIMIZER_LION"].set_value("y")
    tree.syms["LEARNING_RATE"].set_value("2e-3")  # its default
    assert "warning" not in tree.write_config(str(config))
    tree.syms["OPTIMIZER_ADAMW"].set_value("y")  # a default was kept: it follows
    tree.syms["LEARNING_RATE"].set_value("5e-3")
    assert "warning" not in tree.write_config(str(config))


def test_the_search_of_the_menu_finds_words_of_help_last() -> None:
    tree = menus.MenuTree(menus.ROOT_TREE)
    nodes = [node for item in tree.unique_defined_syms for node in item.nodes]
    nodes += [node for item in tree.unique_choices for node in item.nodes]
    drawn: list[list[str]] = []

    class Menu:
        @staticmethod
        def _draw_jump_to_dialog(*given: Any) -> None:
            drawn.append([node.item.name for node in given[8]])

        @staticmethod
        def _sorted_sc_nodes() -> list[Any]:
            return nodes

    search.search_help(Menu)
    found = [tree.syms["BATCH_SIZE"].nodes[0]]
    for _ in range(2):  # as often as it is drawn
        Menu._draw_jump_to_dialog(None, None, None, None, "oom", 3, 0, None, found, 0, 0)
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == "BATCH_SIZE"
    assert {"ACTIVATION_CHECKPOINTING", "HOST_MEMORY_LIMIT"} <= set(drawn[0])
    assert len(drawn[0]) == len(set(drawn[0])) < 12
    phrase = search.in_help("out of  memory", nodes, [])
    assert phrase
    assert all("out of memory" in " ".join(node.help.split()).lower() for node in phrase)
    Menu._draw_jump_to_dialog(None, None, None, None, "(", 1, 0, "Bad regular", [], 0, 0)
    assert drawn[2] == []
