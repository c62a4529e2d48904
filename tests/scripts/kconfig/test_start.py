"""Without a .config the tools speak of what `make` would train."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from scripts import flags, kconf
from scripts.kconfig import menus, show, start

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
    assert f"taking defconfigs/{start.CPU_DEFCONFIG}, as 'make' does" in shown.err


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
