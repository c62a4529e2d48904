"""The .config tools that ask, compare and generate."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt2.config import cli
from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from scripts import flags, kconf
from scripts.kconfig import files, generate, menus, show
from tests.conftest import REPOSITORY, RunScript, WriteConfig

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A .config of the defaults."""
    path = tmp_path / ".config"
    kconf.alldefconfig(path)
    return path


def refused(tool: object, *arguments: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        tool(*arguments)  # type: ignore[operator]
    assert caught.value.code == Exit.CONFIG
    assert all("\n" not in message for message in caught.value.messages)
    return list(caught.value.messages)


def without(config: Path, *words: str) -> None:
    """Take the lines out of `config` that hold one of `words`."""
    lines = config.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(word in line for word in words)]
    assert len(kept) < len(lines)
    config.write_text("".join(kept))


def fragment(folder: Path, name: str, *lines: str) -> str:
    path = folder / name
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def round_trip(seed: int, folder: Path) -> bool:
    """Put a random configuration through the tools; return whether train.py accepts it."""
    config = folder / ".config"
    options = generate.scattered(random.Random(seed))
    try:
        bind(options)
    except UserError as error:
        # Refused as a file too, and each time with a reason; nothing is written. Only a choice
        # that a later one made void is another by the time there is a file.
        assert all(refused(bind, options))
        if all(": it needs " in message for message in error.messages):
            return False
        assert all(refused(kconf.write, options, config))
        assert not config.exists()
        config.write_text(options.full_text())
        assert all(refused(bind, kconf.read(config)))
        config.unlink()
        return False
    kconf.write(options, config)
    written = config.read_text()
    kconf.savedefconfig(config)
    (folder / "defconfig").replace(folder / "defconfigs" / "saved")
    kconf.alldefconfig(config)
    kconf.defconfig(config, "saved")
    assert config.read_text() == written
    argv = flags.flags(config)
    given, _ = cli.parse("train.py", "", argv, TrainActions)
    assert bind(given) == bind(kconf.read(config))
    for path in folder.glob(".config*"):
        path.unlink()
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds", [range(10), pytest.param(range(10, 80), marks=pytest.mark.long)], ids=len
)
def test_savedefconfig_then_defconfig_is_the_same(
    seeds: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "defconfigs").mkdir()
    monkeypatch.setattr(kconf, "DEFCONFIGS", tmp_path / "defconfigs")
    accepted = [round_trip(seed, tmp_path) for seed in seeds]
    assert 0 < sum(accepted) < len(accepted), "both kinds must come up"


@pytest.mark.slow
def test_randconfig_is_right_and_the_same_for_a_seed(tmp_path: Path, capsys: Captured) -> None:
    found = {}
    for seed in ("0", "1", "2", "3", "4", "5"):
        for name in ("a", "b"):
            kconf.randconfig(tmp_path / name, seed)
        bind(kconf.read(tmp_path / "a"))
        assert kconf.read(tmp_path / "a").check() == []
        assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
        found[(tmp_path / "a").read_text()] = seed
        assert f"SEED={seed}'" in capsys.readouterr().out
    assert len(found) == 6


@pytest.mark.slow
def test_randconfig_says_the_seed_it_took(tmp_path: Path, capsys: Captured) -> None:
    kconf.randconfig(tmp_path / "a", "")
    seed = capsys.readouterr().out.partition("SEED=")[2].partition("'")[0]
    kconf.randconfig(tmp_path / "b", seed)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", "1 2", "9" * 30])
def test_a_wrong_seed_writes_nothing(seed: str, tmp_path: Path) -> None:
    (message,) = refused(kconf.randconfig, tmp_path / ".config", seed)
    assert f"SEED={seed} is not a whole number" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_random_values_reach_every_choice_and_stay_in_range() -> None:
    rng = random.Random(3)
    chosen: dict[str, set[str | None]] = {}
    for _ in range(250):
        options = generate.scattered(rng)
        for name in options.names():
            if name in options.choices:
                chosen.setdefault(name, set()).add(options.value(name))
            elif (bounds := options.bounds(name)) and (given := options.given.get(name)):
                low, high = (int(end) for end in bounds.split(".."))
                assert low <= int(given.value) <= high, name
    options = Options(ROOT_TREE)
    for name in options.choices:
        assert set(options.members(name)) <= chosen[name] or options.unmet(name), name


def test_alldefconfig_is_the_defaults(write_config: WriteConfig) -> None:
    config = write_config("CONFIG_SEED=3", "CONFIG_GONE=y")
    kconf.alldefconfig(config)
    assert kconf.read(config).minimal() == {}
    assert "CONFIG_GONE" in config.with_name(".config.old").read_text()


def test_merge_says_what_each_fragment_overrode(config: Path, capsys: Captured) -> None:
    a = fragment(config.parent, "a", "CONFIG_OPTIMIZER_SGD=y", "CONFIG_BATCH_SIZE=8")
    b = fragment(config.parent, "b", "# later", "CONFIG_BATCH_SIZE=9", "CONFIG_SEED=1337")
    capsys.readouterr()
    kconf.merge(config, [a, b])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"OPTIMIZER adamw -> sgd ({a}:1)",
        f"BATCH_SIZE 32 -> 8 ({a}:2)",
        f"BATCH_SIZE 8 -> 9 ({b}:2, over {a}:2)",
    ]
    # What nobody set follows its default, and is said too.
    assert "LEARNING_RATE 6e-4 -> 0.1 (follows from these)" in lines
    assert kconf.read(config).minimal() == {"OPTIMIZER": "sgd", "BATCH_SIZE": "9"}
    kconf.merge(config, [b])
    assert capsys.readouterr().out == "the fragments change nothing\n"


def test_the_order_of_fragments_counts(tmp_path: Path) -> None:
    one = fragment(tmp_path, "one", "CONFIG_SEED=1", "CONFIG_OPTIMIZER_ADAM=y")
    two = fragment(tmp_path, "two", "CONFIG_SEED=2", "CONFIG_OPTIMIZER_SGD=y")
    for order, seed, optimizer in (((one, two), "2", "sgd"), ((two, one), "1", "adam")):
        config = tmp_path / f"config-{seed}"
        kconf.merge(config, order)
        assert kconf.read(config).minimal() == {"SEED": seed, "OPTIMIZER": optimizer}


def test_what_a_fragment_makes_void_in_the_config_is_reported(
    write_config: WriteConfig, tmp_path: Path, capsys: Captured
) -> None:
    config = write_config("CONFIG_MODEL_CUSTOM=y", "CONFIG_N_LAYER=3", "CONFIG_BLOCK_SIZE=2048")
    kconf.merge(config, [fragment(tmp_path, "f", "CONFIG_MODEL_GPT2=y")])
    lines = capsys.readouterr().out.splitlines()
    assert "N_LAYER 3 -> 12 (follows from these)" in lines
    assert "BLOCK_SIZE 2048 -> 256 (follows from these)" in lines
    assert kconf.read(config).minimal() == {}


@pytest.mark.slow
def test_a_whole_config_is_a_fragment(tmp_path: Path) -> None:
    for seed in range(5):
        drawn, merged = tmp_path / f"drawn-{seed}", tmp_path / f"merged-{seed}"
        kconf.randconfig(drawn, str(seed))
        kconf.randconfig(merged, str(seed + 100))
        kconf.merge(merged, [str(drawn)])
        assert merged.read_text() == drawn.read_text()


@pytest.mark.parametrize("there", [True, False])
def test_a_refused_merge_names_lines_and_writes_nothing(there: bool, tmp_path: Path) -> None:
    config = tmp_path / ".config"
    if there:
        kconf.randconfig(config, "7")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    lines = {
        "CONFIG_GONE=y": "unknown",
        'CONFIG_SGD_MOMENTUM="0.3"': "has no effect here: it needs OPTIMIZER_SGD",
        "CONFIG_SEED=-4": "out of range",
        'CONFIG_GRAD_CLIP="-1"': "outside",
        "CONFIG_BATCH_SIZE=many": "not a whole number",
        "nonsense": "not a CONFIG_NAME=value line",
    }
    wrong = fragment(tmp_path, "wrong", *lines)
    right = fragment(tmp_path, "right", "CONFIG_OPTIMIZER_ADAMW=y", "CONFIG_MODEL_GPT2=y")
    messages = refused(kconf.merge, config, [wrong, right])
    assert len(messages) >= len(lines)
    for number, reason in enumerate(lines.values(), 1):
        (message,) = [m for m in messages if m.startswith(f"{wrong}:{number}: ")]
        assert reason in message
    after = {path: path.read_bytes() for path in tmp_path.iterdir()}
    after.pop(Path(wrong))
    after.pop(Path(right))
    assert after == before


def test_an_earlier_fragment_made_void_by_a_later_one_is_refused(tmp_path: Path) -> None:
    first = fragment(tmp_path, "first", "CONFIG_MODEL_CUSTOM=y", "CONFIG_N_LAYER=3")
    last = fragment(tmp_path, "last", "CONFIG_MODEL_GPT2=y")
    (message,) = refused(kconf.merge, tmp_path / ".config", [first, last])
    assert message.startswith(f"{first}:2: CONFIG_N_LAYER has no effect here")


def test_merge_needs_fragments_and_a_right_config(write_config: WriteConfig) -> None:
    config = write_config("CONFIG_GONE=y")
    assert "FRAGMENTS=" in refused(kconf.merge, config, [])[0]
    assert "cannot be read" in refused(kconf.merge, config.with_name("none"), ["nothing"])[0]
    good = fragment(config.parent, "good", "CONFIG_SEED=2")
    messages = refused(kconf.merge, config, [good])
    assert messages[0].startswith(f"{config}:1: CONFIG_GONE is unknown")
    assert "make olddefconfig" in messages[-1]


def test_listnewconfig_lists_what_is_not_there(config: Path, capsys: Captured) -> None:
    capsys.readouterr()
    show.listnewconfig(config)
    assert capsys.readouterr().out == ""
    without(config, "_SEED=", "_GRAD_CLIP=", "_OPTIMIZER_", "_COMPILE ")
    show.listnewconfig(config)
    assert capsys.readouterr().out.splitlines() == [
        "CONFIG_OPTIMIZER_ADAMW=y",
        'CONFIG_GRAD_CLIP="1.0"',
        "CONFIG_OPTIMIZER_STATE_PRECISION_FP32=y",
        "CONFIG_SEED=1337",
        "CONFIG_COMPILE=n",
    ]


def test_new_options_can_be_put_into_the_config(config: Path, capsys: Captured) -> None:
    before = config.read_text()
    config.write_text("")
    capsys.readouterr()
    show.listnewconfig(config)
    config.write_text(capsys.readouterr().out)
    show.listnewconfig(config)
    assert capsys.readouterr().out == ""
    kconf.olddefconfig(config)
    assert config.read_text() == before


def test_diffconfig_is_the_kernels(tmp_path: Path, capsys: Captured) -> None:
    a = fragment(tmp_path, "a", "# x", "CONFIG_SEED=1", "CONFIG_BIAS=y", "CONFIG_GONE=3", "")
    b = fragment(tmp_path, "b", 'CONFIG_DROPOUT="0.1"', "CONFIG_SEED=1", "# CONFIG_BIAS is not set")
    show.diffconfig(Path(a), Path(b))
    assert capsys.readouterr().out.splitlines() == ["-GONE 3", " BIAS y -> n", '+DROPOUT "0.1"']
    show.diffconfig(Path(b), Path(a))
    assert capsys.readouterr().out.splitlines() == ['-DROPOUT "0.1"', " BIAS n -> y", "+GONE 3"]
    show.diffconfig(Path(a), Path(a))
    assert capsys.readouterr().out == ""


def test_diffconfig_refuses_what_is_no_config(tmp_path: Path) -> None:
    good, bad = fragment(tmp_path, "good"), fragment(tmp_path, "bad", "", "CONFIG", "import os")
    assert refused(show.diffconfig, Path(good), tmp_path / "none") == [
        f"{tmp_path / 'none'}: cannot be read: No such file or directory"
    ]
    messages = refused(show.diffconfig, Path(bad), Path(good))
    assert [message.split(": ")[0] for message in messages] == [f"{bad}:2", f"{bad}:3"]


def answer(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))


def test_oldconfig_asks_about_new_options_only(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    before = config.read_text()
    answer(monkeypatch)
    menus.oldconfig(config)  # nothing is new: no answer is needed
    assert config.read_text() == before
    without(config, "_SEED=", "_COMPILE ", "_OPTIMIZER_")
    answer(monkeypatch, "?", "quick", "sgd", "7", "", "", "8", "y")
    capsys.readouterr()
    menus.oldconfig(config)
    shown = capsys.readouterr().out
    asked = {"OPTIMIZER": 3, "SGD_MOMENTUM": 2, "SGD_NESTEROV": 1, "SEED": 1, "COMPILE": 1}
    assert {name: shown.count(f"({name})") for name in Options(ROOT_TREE).names()} == {
        name: asked.get(name, 0) for name in Options(ROOT_TREE).names()
    }
    assert "The update rule." in shown
    assert "'quick' is unknown" in shown
    assert "7 is outside [0, 1)" in shown


def test_oldconfig_takes_the_answers(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    without(config, "_SEED=", "_COMPILE ", "_WARMUP_STEPS")
    answer(monkeypatch, "auto", "-3", "99", "maybe", "y")
    menus.oldconfig(config)
    shown = capsys.readouterr().out
    assert "-3 is out of range 0..2147483647" in shown
    assert "'maybe' is not y or n" in shown
    assert kconf.read(config).minimal() == {"SEED": "99", "COMPILE": "y"}


def test_oldconfig_asks_again_for_the_rate_of_a_library(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """It has no default, and what train.py would refuse is not written."""
    without(config, "_OPTIMIZER_", "_LEARNING_RATE")
    answer(monkeypatch, "library", "po:lion", "", "", "1e-3")
    menus.oldconfig(config)
    assert "--learning-rate is needed" in capsys.readouterr().out
    found = kconf.read(config).minimal()
    assert (found["OPTIMIZER"], found["LEARNING_RATE"]) == ("library", "1e-3")


def test_oldconfig_without_answers_names_the_way_out(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(config, "_SEED=", "_COMPILE ")
    before = config.read_bytes()
    for stream in (io.StringIO(""), io.StringIO("5\n"), None):
        monkeypatch.setattr(sys, "stdin", stream)
        (message,) = refused(menus.oldconfig, config)
        assert "make olddefconfig" in message
        assert config.read_bytes() == before


def test_oldconfig_refuses_answers_that_contradict(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(config, "_MODEL_", "_N_")
    before = config.read_bytes()
    answer(monkeypatch, "custom", "2", "5", "64")
    (message,) = refused(menus.oldconfig, config)
    assert "multiple of the number of heads" in message
    assert config.read_bytes() == before


def test_guiconfig_without_a_display_or_tkinter(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    (message,) = refused(menus.guiconfig, config)
    assert "tkinter" in message
    assert "make menuconfig" in message

    class TclError(Exception):
        pass

    def no_window() -> None:
        raise TclError("no display name and no $DISPLAY environment variable")

    monkeypatch.setitem(sys.modules, "tkinter", SimpleNamespace(Tk=no_window, TclError=TclError))
    (message,) = refused(menus.guiconfig, config)
    assert "display" in message
    assert "make menuconfig" in message


def test_the_menu_checks_fractions_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    keys = ["[?] Symbol info            [/] Jump to symbol"]
    menu = SimpleNamespace(
        _error=said.append,
        _check_valid=lambda symbol, text: True,
        _MAIN_HELP_LINES=keys,
        _INFO_HELP_LINES=keys,
        _draw_jump_to_dialog=print,
    )
    monkeypatch.setitem(sys.modules, "menuconfig", menu)
    monkeypatch.setattr(menus, "_show", lambda *_: None)
    monkeypatch.setattr("curses.setupterm", lambda: None)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    menus.menuconfig(tmp_path / ".config")
    assert menu._MAIN_HELP_LINES == ["[?] Help                   [/] Search"]
    menu._error("Error saving to '.config'\n\nall is wrong (errno: EINVAL)")
    assert said == ["Error saving to '.config'\n\nall is wrong"]
    symbols = Options().symbols
    for name, text in (("MIN_LR", "auto"), ("DROPOUT", "0.5"), ("NAME", "abc"), ("MIN_LR", "")):
        assert menu._check_valid(symbols[name], text)
    assert not menu._check_valid(symbols["DROPOUT"], "abc")
    assert not menu._check_valid(symbols["DROPOUT"], "1.5")
    assert said[1:] == ["'abc' is not a number", "1.5 is outside [0, 1)"]


def window(run: Callable[[menus.MenuTree], None]) -> SimpleNamespace:
    """kconfiglib's guiconfig as far as it is used, whose `menuconfig` is `run`."""
    boxes = SimpleNamespace(showerror=lambda *_, **__: None, askyesno=lambda *_: True)
    return SimpleNamespace(
        menuconfig=run,
        messagebox=boxes,
        _check_valid=lambda dialog, entry, symbol, text: True,
        _info_str=lambda node: "",
        _needs_save=lambda: False,
        _node_str=lambda node: f"{node.prompt[0]} (NEW)",
    )


def test_the_window_checks_fractions_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, str]] = []
    menu = window(lambda tree: None)
    menu.messagebox.showerror = lambda title, text, **_: said.append((title, text))
    monkeypatch.setitem(sys.modules, "guiconfig", menu)
    monkeypatch.setattr(menus, "_lack_of_windows", lambda: "")
    monkeypatch.setattr(menus, "_show", lambda *_: None)
    menus.guiconfig(tmp_path / ".config")
    menu.messagebox.showerror("Error saving", "all is wrong (errno: EINVAL)")
    assert said == [("Error saving", "all is wrong")]
    assert menu.messagebox.askyesno("Quit?")
    focused: list[int] = []
    entry = SimpleNamespace(focus_set=lambda: focused.append(1))
    symbols = Options().symbols
    assert menu._check_valid(None, entry, symbols["DROPOUT"], "0.5")
    assert not menu._check_valid(None, entry, symbols["DROPOUT"], "abc")
    assert (said[1:], focused) == ([("Bad value", "'abc' is not a number")], [1])


@pytest.mark.parametrize("there", [False, True])
def test_the_title_says_where_a_menu_without_a_config_starts(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(menus, "_lack_of_windows", lambda: "")
    monkeypatch.setenv("KCONFIG_CONFIG", "")  # put back after the test
    config = tmp_path / ".config"
    if there:
        kconf.alldefconfig(config)
    titles = []

    def run(tree: menus.MenuTree) -> None:
        titles.append(tree.mainmenu_text)
        tree.load_config()
        tree.write_config(str(config))
        titles.append(tree.mainmenu_text)

    monkeypatch.setitem(sys.modules, "guiconfig", window(run))
    menus.guiconfig(config)
    plain, started = (
        "GPT-2 Training Module",
        "no .config yet, started from gpt2-shakespeare-char-cpu",
    )
    assert titles == [plain if there else f"{plain}: {started}", plain]
    assert max(map(len, titles)) <= 80


def test_guiconfig_is_the_menus_tree(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config("CONFIG_OPTIMIZER_ADAMW=y", 'CONFIG_LEARNING_RATE="6e-4"')
    monkeypatch.setattr(menus, "_lack_of_windows", lambda: "")
    monkeypatch.setenv("KCONFIG_CONFIG", "")  # put back after the test

    def run(tree: menus.MenuTree) -> None:
        tree.load_config()
        tree.syms["OPTIMIZER_SGD"].set_value("y")
        assert tree.syms["LEARNING_RATE"].str_value == "0.1", "loaded in its reduced form"
        tree.syms["DROPOUT"].set_value("2")
        with pytest.raises(OSError, match="2 is outside"):
            tree.write_config(str(config))
        tree.syms["DROPOUT"].set_value("0.5")
        assert menu._needs_save()
        tree.write_config(str(config))
        assert menu._node_str(tree.syms["SEED"].nodes[0]) == "Random seed"

    menu = window(run)
    monkeypatch.setitem(sys.modules, "guiconfig", menu)
    menus.guiconfig(config)
    assert kconf.read(config).minimal() == {"OPTIMIZER": "sgd", "DROPOUT": "0.5"}
    config.write_text("CONFIG_GONE=y\n")
    assert "CONFIG_GONE is unknown" in refused(menus.guiconfig, config)[0]


@pytest.mark.slow
def test_the_tools_are_commands(without_torch: RunScript, tmp_path: Path) -> None:
    config = tmp_path / ".config"
    script = str(REPOSITORY / "scripts" / "kconf.py")

    def run(*arguments: str) -> tuple[int, str, str]:
        done = without_torch(script, "--config", str(config), *arguments, here=tmp_path)
        return done.returncode, done.stdout, done.stderr

    assert run("randconfig", "6")[0] == 0
    assert run("alldefconfig")[0] == 0
    code, shown, _ = run("diffconfig")  # .config.old and .config
    assert code == 0
    assert " SEED " in shown
    fragment(tmp_path, "-dashed", "CONFIG_SEED=4")
    code, shown, _ = run("merge", "--", "-dashed")
    assert (code, shown) == (0, "SEED 1337 -> 4 (-dashed:1)\n")
    for wrong in (["nonsense"], [], ["diffconfig", "a", "b", "c"], ["merge", "--x"]):
        code, shown, complaint = run(*wrong)
        assert (code, shown) == (Exit.CONFIG, "")
        assert complaint.startswith("kconf.py: error: ")
        assert complaint.count("\n") == 1


def test_what_is_no_text_is_replaced_and_kept(tmp_path: Path) -> None:
    path = tmp_path / ".config"
    path.write_bytes(b"\xff\xfe\x00")
    files.write(Options(ROOT_TREE), path)
    assert "CONFIG_MODEL_GPT2=y" in path.read_text()
    assert (tmp_path / ".config.old").read_bytes() == b"\xff\xfe\x00"
