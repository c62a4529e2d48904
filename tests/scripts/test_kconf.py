"""The .config tools."""

from __future__ import annotations

import errno
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.config.bind import bind
from gpt2.config.errors import Exit, UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from gpt2.config.typed import PATHS
from scripts import kconf
from scripts.kconfig import menus, start
from tests.conftest import REPOSITORY, RunScript, WriteConfig, random_options

DEFCONFIGS = kconf.defconfigs()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two defconfigs in place of the real one."""
    path = tmp_path / "defconfigs"
    path.mkdir()
    (path / "small").write_text("# A small one\nCONFIG_BATCH_SIZE=3\nCONFIG_OPTIMIZER_SGD=y\n")
    (path / "larger-one").write_text("# A larger one\n\n# more\nCONFIG_BATCH_SIZE=9\n")
    (path / ".hidden").write_text("x")
    monkeypatch.setattr(kconf, "DEFCONFIGS", path)
    return path


def value(config: Path, name: str) -> str | None:
    options = kconf.read(config)
    assert options.check() == []
    return options.value(name)


def refused(tool: object, *arguments: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        tool(*arguments)  # type: ignore[operator]
    assert caught.value.code == Exit.CONFIG
    return list(caught.value.messages)


@pytest.mark.usefixtures("folder")
def test_defconfig_writes_a_full_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / ".config"
    kconf.defconfig(config, "small")
    assert (value(config, "BATCH_SIZE"), value(config, "LEARNING_RATE")) == ("3", "0.1")
    lines = config.read_text().splitlines()
    assert lines[0].startswith("# GPT-2 Training Module")
    assert "CONFIG_SEED=1337" in lines
    assert "small" in capsys.readouterr().out
    kconf.defconfig(config, "larger-one")
    assert (value(config, "BATCH_SIZE"), value(config, "OPTIMIZER")) == ("9", "adamw")
    assert "CONFIG_BATCH_SIZE=3" in (tmp_path / ".config.old").read_text()


@pytest.mark.usefixtures("folder")
def test_an_unknown_defconfig_names_the_nearest(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    assert refused(kconf.defconfig, config, "smal") == ["no defconfigs/smal; did you mean small?"]
    assert refused(kconf.defconfig, config, ".hidden")[0].startswith("no defconfigs")
    assert not config.exists()


def test_a_wrong_defconfig_writes_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "wrong").write_text('# Wrong\nCONFIG_DROPOUT="2"\nCONFIG_TYPO=y\n')
    found = refused(kconf.defconfig, tmp_path / ".config", "wrong")
    assert sorted(text.removeprefix(f"{folder / 'wrong'}:")[:1] for text in found) == ["2", "3"]
    assert not (tmp_path / ".config").exists()


def test_list_defconfigs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kconf.list_defconfigs()
    assert capsys.readouterr().out.splitlines() == [
        "defconfig-larger-one  A larger one",
        "defconfig-small       A small one",
    ]
    for path in folder.iterdir():
        path.unlink()
    kconf.list_defconfigs()
    assert capsys.readouterr().out == ""


def test_there_are_defconfigs() -> None:
    assert {"gpt2-shakespeare-l4", "gpt2-shakespeare-char-cpu"} <= {p.name for p in DEFCONFIGS}


@pytest.mark.parametrize("path", DEFCONFIGS, ids=lambda path: path.name)
def test_every_defconfig_is_right_minimal_and_described(path: Path, tmp_path: Path) -> None:
    options = kconf.read(path)
    bind(options)
    assert options.kconfig.warnings == []
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(lines[0].split()) > 3, "the first line describes it in list-defconfigs"
    config = tmp_path / ".config"
    kconf.write(options, config)
    kconf.savedefconfig(config)
    minimal = (tmp_path / "defconfig").read_text().splitlines()
    settings = [line for line in lines if line and (line[0] != "#" or line.endswith(" is not set"))]
    assert settings == minimal


def test_olddefconfig_makes_a_config_of_what_make_would_take(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    kconf.olddefconfig(config)
    assert kconf.read(config).minimal() == kconf.read(start.fitting_defconfig()).minimal()


def test_olddefconfig_drops_with_a_message(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(
        "CONFIG_GONE=y", "CONFIG_BATCH_SIZE=5", 'CONFIG_WSD_DECAY="0.3"', "CONFIG_SEED=-1"
    )
    kconf.olddefconfig(config)
    shown = capsys.readouterr()
    dropped = [line for line in shown.err.splitlines() if line.startswith("dropped: ")]
    assert len(dropped) == len(shown.err.splitlines()) == 3
    for name in ("CONFIG_GONE", "CONFIG_WSD_DECAY", "CONFIG_SEED"):
        assert any(name in line for line in dropped), name
    assert kconf.read(config).minimal() == {"BATCH_SIZE": "5"}
    kconf.olddefconfig(config)
    assert capsys.readouterr().err == ""


def test_olddefconfig_leaves_a_wrong_value_to_its_owner(write_config: WriteConfig) -> None:
    # It cannot be dropped as without effect, and what it should be only its owner knows.
    config = write_config('CONFIG_DROPOUT="2"', "CONFIG_GONE=y")
    before = config.read_text()
    assert refused(kconf.olddefconfig, config) == ["CONFIG_DROPOUT: 2 is outside [0, 1)"]
    assert config.read_text() == before


@pytest.mark.parametrize("seed", range(5))
def test_savedefconfig_can_be_put_back(seed: int, tmp_path: Path) -> None:
    config = tmp_path / ".config"
    kconf.write(random_options(seed, ROOT_TREE), config)
    before = config.read_text()
    kconf.savedefconfig(config)
    (tmp_path / "defconfig").replace(config)
    assert config.read_text().count("\n") < before.count("\n")
    kconf.olddefconfig(config)
    assert config.read_text() == before


def test_savedefconfig_needs_a_right_config(tmp_path: Path, write_config: WriteConfig) -> None:
    assert refused(kconf.savedefconfig, tmp_path / ".config") == [
        f"no {tmp_path / '.config'}: make it with 'make menuconfig' or a defconfig"
    ]
    config = write_config('CONFIG_DROPOUT="2"')
    assert refused(kconf.savedefconfig, config) == [
        f"{config}:1: CONFIG_DROPOUT: 2 is outside [0, 1)"
    ]
    assert not (tmp_path / "defconfig").exists()


@pytest.mark.slow
def test_a_config_is_rewritten_only_if_it_changes(tmp_path: Path, folder: Path) -> None:
    config = tmp_path / ".config"
    kconf.defconfig(config, "small")
    os.utime(config, ns=(1, 1))
    kconf.defconfig(config, "small")
    kconf.olddefconfig(config)
    menus.MenuTree(ROOT_TREE).load_config(str(config))
    assert config.stat().st_mtime_ns == 1
    assert not (tmp_path / ".config.old").exists()
    (folder / "small").write_text("# Changed\nCONFIG_BATCH_SIZE=4\n")
    kconf.defconfig(config, "small")
    assert config.stat().st_mtime_ns != 1


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    config = tmp_path / "no" / "such" / "folder"
    assert refused(kconf.olddefconfig, config) == [
        f"{config}: cannot be written: No such file or directory"
    ]


def explained(capsys: pytest.CaptureFixture[str], config: Path, option: str) -> dict[str, str]:
    """The lines of explain by what they say; `head` is the first."""
    kconf.explain(config, option)
    head, *lines = capsys.readouterr().out.splitlines()
    found = {"head": head}
    for line in lines:
        name, colon, rest = line.strip().partition(": ")
        if colon and name in ("value", "from", "range", "requires", "declared"):
            found[name] = f"{found[name]}; {rest}" if name in found else rest
    return found


@pytest.mark.slow
def test_every_option_is_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = Options(ROOT_TREE)
    defaults = tmp_path / ".config"  # without one, explain starts from what make would take
    kconf.alldefconfig(defaults)
    capsys.readouterr()
    hidden = 0
    for name in options.names():
        found = explained(capsys, defaults, name)
        own = "" if name.startswith("MATRIX_") else f"   {flag_of(name)}"  # those are no flags
        assert found["head"].startswith(f"{name}{own}   "), name
        value = options.value(name)
        assert found["value"] == (
            "not used with these options" if value is None else value or repr("")
        )
        assert found["from"].endswith("its default")
        assert found.get("requires", "") == "; ".join(
            f"{need} ({'the case' if met else 'not the case'})"
            for need, met in options.conditions(name).items()
        )
        hidden += "not the case" in found.get("requires", "")
        assert (REPOSITORY / found["declared"].split(":")[0]).is_file()
        names = (*PATHS, "OPTIMIZER_NAME", "OPT_ARGS", "NAME")
        plain = name in names or name.startswith(("MATRIX_", "WANDB_", "TRACKIO_"))
        if name in options.symbols and not options.is_bool(name) and not plain:
            assert found["range"], name
        if name == "OPTIMIZER":
            assert found["range"].endswith(", sgd, po:NAME, bnb:NAME, ao:NAME, module:Class")
        elif name in options.choices:
            assert found["range"] == ", ".join(options.members(name))
    assert hidden >= 5


@pytest.mark.slow
def test_members_of_a_choice_are_explained(
    capsys: pytest.CaptureFixture[str], write_config: WriteConfig
) -> None:
    config = write_config("CONFIG_OPTIMIZER_SGD=y")
    found = explained(capsys, config, "OPTIMIZER_SGD")
    assert found["head"] == "OPTIMIZER_SGD   --optimizer sgd   SGD"
    assert found["from"] == f"{config}:1: CONFIG_OPTIMIZER_SGD"
    options = Options(ROOT_TREE)
    for choice in options.choices:
        for symbol in options.members(choice).values():
            assert explained(capsys, config, symbol)["head"].startswith(symbol)


@pytest.mark.parametrize(
    "spelling", ["NUM_WORKERS", "--num-workers", "num_workers", "CONFIG_NUM_WORKERS"]
)
def test_an_option_is_found_in_every_spelling(
    spelling: str, capsys: pytest.CaptureFixture[str], write_config: WriteConfig
) -> None:
    config = write_config("", "CONFIG_NUM_WORKERS=3")
    found = explained(capsys, config, spelling)
    assert found["value"] == "3"
    assert found["from"] == f"{config}:2: CONFIG_NUM_WORKERS"
    assert found["range"] == "0..16"
    assert "requires" not in found


def test_explain_says_where_a_value_comes_from(
    capsys: pytest.CaptureFixture[str], write_config: WriteConfig
) -> None:
    config = write_config(
        "CONFIG_BATCH_SIZE=32",
        "CONFIG_SEED=-1",
        "CONFIG_LR_SCHEDULE_WSD=y",
        'CONFIG_WSD_DECAY="0.4"',
    )
    assert explained(capsys, config, "batch-size")["from"] == (
        f"{config}:1: CONFIG_BATCH_SIZE, the same as its default"
    )
    found = explained(capsys, config, "seed")
    assert found["value"] == "1337"
    assert found["from"] == f"its default; {config}:2: CONFIG_SEED is refused"
    found = explained(capsys, config, "wsd-decay")
    assert found["from"] == f"{config}:4: CONFIG_WSD_DECAY"
    assert found["requires"] == "LR_SCHEDULE_WSD (the case)"
    assert found["range"] == "[0, 1]"
    kconf.explain(config, "seed")
    assert "CONFIG_SEED: -1 is out of range" in capsys.readouterr().err


def test_explain_lists_the_defaults_and_counts_typed_flags(
    capsys: pytest.CaptureFixture[str], write_config: WriteConfig
) -> None:
    config = write_config(
        "CONFIG_OPTIMIZER_MUON=y", "CONFIG_MODEL_CUSTOM=y", "CONFIG_N_EMBD=128",
        'CONFIG_LEARNING_RATE="0.01"',
    )  # fmt: skip
    kconf.explain(config, "learning-rate")
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("  defaults, the first that fits (*: now):") + 1
    table = [line for line in lines[at:] if line.startswith("    ")]
    assert [line for line in table if "*" in line] == ["    * 0.03    --optimizer muon"]
    assert "      none    --optimizer library" in table
    assert "      2e-3    --optimizer lion, a small model (--n-embd up to 256)" in table
    assert table[-1] == "      6e-4    else"

    kconf.explain(config, "learning-rate", ["--optimizer", "adamw"])
    shown = capsys.readouterr().out
    assert "value: 0.01\n" in shown
    assert "    * 4e-3    a small model (--n-embd up to 256)\n" in shown
    kconf.explain(config, "optimizer", ["--optimizer", "lion"])
    shown = capsys.readouterr().out
    assert "  value: lion\n  from: --optimizer\n" in shown
    kconf.explain(config, "seed")
    assert "defaults" not in capsys.readouterr().out  # there is one
    with pytest.raises(UserError, match="--optimizer 'adamww' is unknown") as caught:
        kconf.explain(config, "seed", ["--optimizer", "adamww"])
    assert caught.value.program == "train.py"


def test_flags_follow_a_second_pair_of_dashes() -> None:
    whole = ["explain", "--", "seed", "--", "--optimizer", "adamw"]
    assert kconf._split(whole) == (whole[:3], whole[4:])
    assert kconf._split(whole[:3]) == (whole[:3], [])


def test_an_unknown_option_names_the_search_that_finds_it(tmp_path: Path) -> None:
    (message,) = refused(kconf.explain, tmp_path / "none", "nan")
    assert "make explain OPTION=/nan finds 1 option;" in message


def test_an_unknown_option_names_the_nearest(tmp_path: Path) -> None:
    (message,) = refused(kconf.explain, tmp_path / "none", "lerning-rate")
    assert message.startswith("no such option: 'lerning-rate'; did you mean LEARNING_RATE")


def test_the_menu_cannot_save_a_wrong_value(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    tree = menus.MenuTree(ROOT_TREE)
    tree.syms["LEARNING_RATE"].set_value("fast")
    with pytest.raises(OSError, match="CONFIG_LEARNING_RATE: 'fast' is not a number") as caught:
        tree.write_config(str(config))
    assert caught.value.errno == errno.EINVAL
    # The file that was checked is a draft: its name and lines mean nothing to the user.
    assert caught.value.strerror == "CONFIG_LEARNING_RATE: 'fast' is not a number"
    assert not config.exists()
    tree.syms["LEARNING_RATE"].set_value("0.5")
    tree.write_config(str(config))
    assert kconf.read(config).minimal() == {"LEARNING_RATE": "0.5"}


def test_the_menu_does_not_load_wrong_lines(write_config: WriteConfig) -> None:
    config = write_config("CONFIG_GONE=y")
    with pytest.raises(OSError, match="CONFIG_GONE is unknown") as caught:
        menus.MenuTree(ROOT_TREE).load_config(str(config))
    assert caught.value.errno == errno.EINVAL


def test_the_menu_knows_whether_there_is_something_to_save(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    kconf.alldefconfig(config)
    tree = menus.MenuTree(ROOT_TREE)
    tree.load_config(str(config))
    assert not tree.differs(config)
    tree.syms["BIAS"].set_value("n")
    assert tree.differs(config)
    assert tree.differs(tmp_path / "none")


def test_menuconfig_without_a_terminal(without_torch: RunScript, tmp_path: Path) -> None:
    config = tmp_path / ".config"
    done = without_torch("scripts/kconf.py", "--config", str(config), "menuconfig")
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    (line,) = done.stderr.splitlines()
    assert "terminal" in line
    assert "make olddefconfig" in line
    assert not config.exists()


def on_a_terminal(config: Path, keys: bytes) -> tuple[int, str]:
    """Type `keys` into menuconfig on a terminal; return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "scripts/kconf.py", "--config", str(config), "menuconfig"],
        cwd=REPOSITORY,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "LINES": "30", "COLUMNS": "100", "NO_COLOR": "1"},
    )
    os.close(theirs)
    shown = b""
    try:
        for key in keys:
            # A key counts only when the menu waits for it: when it has nothing more to show.
            while select.select([ours], [], [], 0.15 if shown else 10)[0]:
                shown += os.read(ours, 65536)
            os.write(ours, bytes([key]))
        while select.select([ours], [], [], 10)[0]:
            shown += os.read(ours, 65536)
    except OSError:  # Linux's way of saying that the other end is closed
        pass
    finally:
        os.close(ours)
        try:
            code = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return code, shown.decode(errors="replace")


@pytest.mark.slow
def test_menuconfig_on_a_terminal(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    kconf.alldefconfig(config)
    before = config.read_text()
    code, shown = on_a_terminal(config, b"q")
    assert code == 0
    assert "No changes to save" in shown
    assert "Optimizer (adamw, learning rate 6e-4)" in shown
    assert config.read_text() == before
    # Down twice to Optimizer, into the menu, into the choice, down to SGD, take it; quit, yes.
    members = list(Options().members("OPTIMIZER"))
    down = b"j" * (members.index("sgd") - members.index("adamw"))
    code, shown = on_a_terminal(config, b"jj\n\n" + down + b"\nqy")
    assert code == 0
    assert "(NEW)" not in shown
    minimal = kconf.read(config).minimal()
    assert minimal == {"OPTIMIZER": "sgd"}
    assert value(config, "LEARNING_RATE") == "0.1"


def test_menuconfig_refuses_a_wrong_file(write_config: WriteConfig) -> None:
    config = write_config("CONFIG_GONE=y")
    code, shown = on_a_terminal(config, b"")
    assert code == Exit.CONFIG
    assert f"kconf.py: error: {config}:1: CONFIG_GONE is unknown" in shown
    assert "make olddefconfig" in shown
    assert config.read_text() == "CONFIG_GONE=y\n"


def test_the_tools_run_as_commands(without_torch: RunScript, tmp_path: Path) -> None:
    name = DEFCONFIGS[0].name
    config = tmp_path / ".config"
    script = str(REPOSITORY / "scripts" / "kconf.py")
    done = without_torch(script, "--config", str(config), "defconfig", name, here=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert value(config, "SEED") is not None
    done = without_torch(script, "--config", str(config), "defconfig", "nothing")
    assert done.returncode == Exit.CONFIG
    assert done.stderr.startswith("kconf.py: error: no defconfigs/nothing")
    listed = without_torch(script, "list-defconfigs").stdout.splitlines()
    assert len(listed) == len(DEFCONFIGS)


def test_a_wrong_list_of_the_matrix_is_refused_before_it_is_written(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    config.write_text('CONFIG_MATRIX_OPTIMIZERS="adamv"\n')
    with pytest.raises(UserError, match="no optimizer 'adamv'; did you mean adam"):
        kconf.olddefconfig(config)
    assert config.read_text() == 'CONFIG_MATRIX_OPTIMIZERS="adamv"\n'
