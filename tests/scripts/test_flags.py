""".config -> flags: what the shell gets back is what the .config says."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt2.config.actions import PrepareActions, TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from gpt2.config.typed import Config
from gpt2.files.lock import lock_folder
from gpt2.prepare_data import OPTIONS as PREPARE_OPTIONS
from scripts import flags, kconf
from scripts.kconfig import start
from tests.conftest import ODD_FOLDERS, REPOSITORY, RunScript, WriteConfig, random_options


def config_of(path: Path) -> Config:
    options = Options(ROOT_TREE)
    options.read(path)
    return bind(options)


def main(*arguments: str) -> int:
    """Run flags.py with `arguments`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["flags.py", *arguments])
        return flags.main()


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """What flags.py prints for `arguments`, as a shell would split it."""
    assert main(*arguments) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return shlex.split(out)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A repository with two defconfigs and no .config; return its folder."""
    (tmp_path / "defconfigs").mkdir()
    (tmp_path / "defconfigs" / start.GPU_DEFCONFIG).write_text("# GPU\nCONFIG_BATCH_SIZE=77\n")
    (tmp_path / "defconfigs" / start.CPU_DEFCONFIG).write_text("# CPU\nCONFIG_BATCH_SIZE=7\n")
    monkeypatch.setattr(flags, "REPOSITORY", tmp_path)
    monkeypatch.setattr(start, "DEFCONFIGS", tmp_path / "defconfigs")
    return tmp_path


@pytest.mark.parametrize(
    "seed", [*range(10), *(pytest.param(n, marks=pytest.mark.slow) for n in range(10, 50))]
)
def test_flags_say_what_the_config_says(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".config"
    kconf.write(random_options(seed), path)
    argv = printed(capsys, str(path))
    # From any folder: make echoes the command so that it can be pasted.
    monkeypatch.chdir(tmp_path)
    options, actions = parse("train.py", "", argv, TrainActions)
    assert bind(options) == config_of(path)
    assert actions == TrainActions()


def test_options_of_another_optimizer_are_left_out_and_named(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(
        "CONFIG_OPTIMIZER_MUON=y", 'CONFIG_MUON_ADAMW_LR="0.01"', 'CONFIG_LEARNING_RATE="0.02"',
        "# CONFIG_MUON_NESTEROV is not set", "CONFIG_BATCH_SIZE=7",
    )  # fmt: skip
    whole = ["--optimizer", "muon", "--learning-rate", "0.02", "--muon-adamw-lr", "0.01"]
    assert set(whole) | {"--no-muon-nesterov"} <= set(printed(capsys, str(path)))
    assert main(str(path), "--", "--optimizer", "adamw") == 0
    said = capsys.readouterr()
    found = shlex.split(said.out)
    assert (found.count("--optimizer"), found[-2:]) == (1, ["--optimizer", "adamw"])
    options, _ = parse("train.py", "", found, TrainActions)
    config = bind(options)
    assert (config.optim.learning_rate, config.train.batch_size) == (0.02, 7)
    assert "not used with --optimizer adamw: " in said.err
    assert "--muon-adamw-lr 0.01" in said.err
    assert "--no-muon-nesterov" in said.err
    assert "has --learning-rate 0.02, which stays; the default of adamw is 6e-4: " in said.err
    assert said.err.endswith(": add --learning-rate 6e-4\n")
    assert main("--data", str(path), "--", "--optimizer", "adamw") == 0  # the preparation is silent
    assert capsys.readouterr().err == ""


def test_each_flag_is_printed_once_as_it_was_typed_last(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(
        "CONFIG_BATCH_SIZE=7", "# CONFIG_BIAS is not set", "CONFIG_MAX_TIME=9", "CONFIG_SEED=3"
    )
    typed = ["--max-time", "5m", "--bias", "--batch_size=8", "--max-time", "10m", "--run-dir", "r"]
    kept = ["--bias", "--batch_size=8", "--max-time", "10m", "--run-dir", "r"]
    assert printed(capsys, str(path), "--", *typed) == ["--seed", "3", *kept]
    given = [
        "--optimizer",
        "po:soap",
        "--learning-rate",
        "1",
        "--opt-arg",
        "a=1",
        "--opt-arg",
        "b=2",
    ]
    assert printed(capsys, str(path), "--", *given)[-len(given) :] == given  # these add up
    assert printed(capsys, str(path), "--", "--help")[-1] == "--help"  # for train.py to answer


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--bf16"], ["unknown flag --bf16; here it is --precision bf16 (see --help)"]),
        (["--optimizer", "adamv"], ["--optimizer 'adamv' is unknown; did you mean "]),
        (["--adamw-beta1", "0.5"], ["--adamw-beta1 has no effect here: it needs --optimizer "]),
        (["--batch-size", "many"], ["--batch-size: 'many' is not a whole number"]),
        (["--plan-for", "24"], ["--plan-for: "]),
        # Nothing is said of the file's options that go with Muon.
        (["--optimizer", "adamw", "--seed", "-1"], ["--seed: -1 is out of range"]),
        (["--optimizer", "adamw", "--bf16"], ["unknown flag --bf16"]),
        (["--optimizer", "po:sopa"], ["--optimizer po:sopa: pytorch_optimizer has no 'sopa'"]),
    ],
)
@pytest.mark.parametrize("mode", [[], ["--data"]])
def test_what_is_wrong_is_said_at_once_in_the_name_of_train(
    mode: list[str],
    typed: list[str],
    said: list[str],
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = (
        "CONFIG_OPTIMIZER_MUON=y",
        'CONFIG_MUON_ADAMW_LR="0.01"',
        'CONFIG_LEARNING_RATE="0.02"',
    )
    with pytest.raises(UserError) as caught:
        main(*mode, str(write_config(*lines)), "--", *typed)
    messages = caught.value.messages
    assert [a.startswith(b) for a, b in zip(messages, said, strict=True)] == [True] * len(said), (
        messages
    )
    assert caught.value.program == "train.py"
    assert capsys.readouterr() == ("", "")
    # What is for other programs, as the cells of a matrix, is theirs to check.
    assert main("--data", "--unchecked", str(write_config(*lines)), "--", *typed) == 0


def test_without_a_config_what_is_wrong_is_said_before_torch_is_imported(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "fitting_defconfig", lambda _: pytest.fail("torch was asked"))
    with pytest.raises(UserError, match="here it is --precision bf16"):
        main(str(machine / ".config"), "--data", "--", "--bf16")


def test_only_what_differs_is_printed(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, str(write_config("CONFIG_BATCH_SIZE=32", "CONFIG_BIAS=y"))) == []
    path = write_config("# CONFIG_BIAS is not set", "CONFIG_COMPILE=y", "CONFIG_LOSS_FULL=y")
    assert printed(capsys, str(path)) == ["--no-bias", "--loss", "full", "--compile"]


def test_a_relative_path_is_the_repositorys(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config('CONFIG_DATA_DIR="my data"')
    assert printed(capsys, str(path)) == ["--data-dir", str(REPOSITORY / "my data")]


@pytest.mark.slow
def test_every_defconfig_becomes_flags_that_say_the_same() -> None:
    for path in kconf.defconfigs():
        options, _ = parse("train.py", "", flags.flags(path), TrainActions)
        assert bind(options) == config_of(path)


@pytest.mark.parametrize("folder", [*ODD_FOLDERS, "$(exit 3)", "`false`", "a;b&c|d", "~", "*"])
def test_no_value_is_touched_by_a_shell(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options()
    options.give("DATA_DIR", folder, "--data-dir")
    path = tmp_path / ".config"
    kconf.write(options, path)
    words = printed(capsys, str(path))
    line = shlex.join(words)
    # The way the Makefile uses them: the printed line is evaluated by sh.
    show = 'import sys; print("\\0".join(sys.argv[1:]), end="")'
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(show)} {line}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0") == words
    taken, _ = parse("train.py", "", words, TrainActions)
    assert bind(taken).data.data_dir == REPOSITORY / folder


def test_a_value_like_a_flag_stays_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    # No option of today may hold such a value; a string of a plug-in may.
    monkeypatch.setattr(Options, "minimal", lambda _: {"DROPOUT": "--resume"})
    (word,) = flags.flags(REPOSITORY / "defconfigs" / start.CPU_DEFCONFIG)
    options, actions = parse("train.py", "", [word], TrainActions)
    assert options.value("DROPOUT") == "--resume"
    assert actions.resume is None


def test_data_prints_what_prepare_data_takes(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(
        "CONFIG_BATCH_SIZE=5", "CONFIG_DATASET_TEXT=y", "CONFIG_TOKENIZER_CHAR=y",
        'CONFIG_DATA_DIR="/somewhere"', "CONFIG_DEVICE_CPU=y",
    )  # fmt: skip
    words = printed(capsys, str(path), "--data")
    assert words == ["--dataset", "text", "--tokenizer", "char", "--data-dir", "/somewhere"]
    assert set(flags.DATA_OPTIONS) == set(PREPARE_OPTIONS)
    options, _ = parse("prepare_data.py", "", words, PrepareActions, PREPARE_OPTIONS)
    assert bind(options).data == config_of(path).data


def test_the_number_of_a_gpu_is_kept(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config("CONFIG_DEVICE_CUDA=y", "CONFIG_DEVICE_INDEX=1")
    words = printed(capsys, str(path))
    assert words == ["--device", "cuda", "--device-index", "1"]
    other = ["--device", "cuda:0"]
    assert printed(capsys, str(path), "--", *other) == other
    assert printed(capsys, str(path), "--", "--device=cuda:2") == ["--device=cuda:2"]
    assert printed(capsys, str(path), "--", "--device", "cuda") == [
        "--device-index",
        "1",
        *other[:1],
        "cuda",
    ]


def test_another_name_takes_the_place_of_the_files(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(
        "CONFIG_OPTIMIZER_LIBRARY=y", 'CONFIG_OPTIMIZER_NAME="po:soap"', 'CONFIG_LEARNING_RATE="1"'
    )
    words = printed(capsys, str(path), "--", "--optimizer-name", "po:lion")
    assert words == [
        "--optimizer",
        "library",
        "--learning-rate",
        "1",
        "--optimizer-name",
        "po:lion",
    ]
    words = printed(capsys, str(path), "--", "--optimizer", "po:lion")
    assert words == ["--learning-rate", "1", "--optimizer", "po:lion"]
    with pytest.raises(UserError, match=r"--optimizer-name po:soap contradicts .*: give one of"):
        main(str(path), "--", "--optimizer", "po:lion", "--optimizer-name", "po:soap")


def test_the_axes_of_the_matrix_are_no_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "Kconfig"
    root.write_text(
        f'mainmenu "m"\nsource "{REPOSITORY}/gpt2/Kconfig"\n'
        'config MATRIX_SEEDS\n\tint "Seeds"\n\tdefault 1\n\trange 1 9\n'
    )
    monkeypatch.setattr(flags, "ROOT_TREE", root)
    path = tmp_path / ".config"
    path.write_text("CONFIG_MATRIX_SEEDS=3\nCONFIG_SEED=5\n")
    assert flags.flags(path) == ["--seed", "5"]


@pytest.mark.parametrize(
    ("gpu", "name", "batch", "why"),
    [
        (True, start.GPU_DEFCONFIG, "77", "a GPU"),
        (False, start.CPU_DEFCONFIG, "7", "no GPU"),
    ],
)
def test_without_a_config_the_machine_decides(
    gpu: bool, name: str, batch: str, why: str, machine: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert main(str(machine / ".config")) == 0
    shown = capsys.readouterr()
    assert shown.out == f"--batch-size {batch}\n"
    assert f"taking defconfigs/{name} ({why}); others: make list-defconfigs" in shown.err
    assert shown.err.count("\n") == 1
    assert not (machine / ".config").exists()


def test_another_file_that_is_missing_is_an_error(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="typo: cannot be read: No such file"):
        main(str(machine / "typo"))
    assert capsys.readouterr().out == ""


def make_run(parent: Path, name: str, age: int, batch: int, *files: str) -> Path:
    run = parent / name
    run.mkdir(parents=True)
    (run / "config").write_text(f"CONFIG_BATCH_SIZE={batch}\n")
    os.utime(run / "config", (1_000_000 - age, 1_000_000 - age))
    for file in files:
        (run / file).mkdir(parents=True)
    return run


def test_unfinished_takes_the_newest_that_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "my runs"
    make_run(runs, "old", 300, 3, "checkpoints/step-00000010")
    wanted = make_run(runs, "newer", 200, 4, "checkpoints/step-00000010")
    finished = make_run(runs, "finished", 100, 5, "checkpoints/step-00000010")
    (finished / "summary.json").write_text("{}")
    make_run(runs, "empty", 400, 6)  # goes on from its start, but is not the newest
    (runs / "latest").symlink_to("finished")
    words = printed(capsys, "--unfinished", str(runs))
    assert words == ["--batch-size", "4", "--run-dir", str(wanted)]


def test_unfinished_leaves_out_runs_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = make_run(tmp_path, "old", 300, 3)
    new = make_run(tmp_path, "new", 200, 4)
    with lock_folder(new, "", ""):
        words = printed(capsys, "--unfinished", str(tmp_path))
        assert words == ["--batch-size", "3", "--run-dir", str(old)]
        main("--unfinished", str(tmp_path))
        said = capsys.readouterr().err
        assert said.startswith(f"{new} is in use by process {os.getpid()} on ")
        assert said.endswith(f": resuming {old}\n")
        with (
            lock_folder(old, "", ""),
            pytest.raises(UserError, match=r"no unfinished run is free: .*new is in .* and .*old"),
        ):
            main("--unfinished", str(tmp_path))
    assert printed(capsys, "--unfinished", str(tmp_path))[-1] == str(new)


def test_unfinished_without_one_is_an_error(tmp_path: Path) -> None:
    (make_run(tmp_path, "finished", 0, 6) / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="holds no unfinished run"):
        main("--unfinished", str(tmp_path))


def test_a_wrong_config_prints_no_flags(
    without_torch: RunScript, write_config: WriteConfig
) -> None:
    path = write_config("CONFIG_BATCH_SIZE=5", "CONFIG_GONE=y", 'CONFIG_ADAMW_BETA1="2"')
    done = without_torch("scripts/flags.py", str(path))
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    assert [line.split(": CONFIG")[0] for line in done.stderr.splitlines()] == [
        f"flags.py: error: {path}:2",
        f"flags.py: error: {path}:3",
    ]


def test_a_right_config_needs_no_torch(without_torch: RunScript, write_config: WriteConfig) -> None:
    path = write_config("CONFIG_BATCH_SIZE=5")
    for safe in ("", "1"):
        done = without_torch("scripts/flags.py", str(path), PYTHONSAFEPATH=safe)
        assert (done.returncode, done.stdout, done.stderr) == (0, "--batch-size 5\n", "")


def test_flags_of_train_that_prepare_has_to_know(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config("CONFIG_DATASET_TEXT=y")
    typed = ["--max-steps", "3", "--data-dir", "/big", "--dataset=tinystories", "--seed", "1"]
    said = printed(capsys, str(config), "--data", "--", *typed)
    assert said == ["--data-dir", "/big", "--dataset=tinystories"]
    options, _ = parse("prepare_data.py", "", said, PrepareActions, PREPARE_OPTIONS)
    assert bind(options).data.dataset == "tinystories"
    assert printed(capsys, str(config), "--data", "--unchecked", "--", "--data-dir", "/big") == [
        "--dataset", "text", "--data-dir", "/big",
    ]  # fmt: skip
    assert printed(capsys, str(config), "--", *typed) == typed
