"""The command line: flags from the Kconfig tree, actions from typed.py, errors all at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from gpt2.config.actions import Help, SampleActions, TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import Exit, UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.typed import Config, Within
from tests.conftest import REPOSITORY, RunScript

ENTRIES = sorted(
    path.name for path in (REPOSITORY / "gpt2").glob("*.py") if "run_entry(" in path.read_text()
)


@dataclass(frozen=True, kw_only=True)
class Actions:
    """Actions of every kind."""

    where: Annotated[Path | None, Help("a folder")] = None
    often: Annotated[int, Help("a number"), Within("[1, 9]")] = 3
    again: Annotated[bool | None, Help("yes or no")] = None
    force: Annotated[bool, Help("only yes: 100 %")] = False


@dataclass(frozen=True, kw_only=True)
class Needy:
    """An action that must be given."""

    run: Annotated[Path, Help("run directory")]


def options_of(*argv: str) -> Options:
    return parse("train.py", "", argv, TrainActions)[0]


def config_of(*argv: str) -> Config:
    return bind(options_of(*argv))


def actions_of(*argv: str) -> Actions:
    return parse("train.py", "", argv, Actions)[1]


def refused(*argv: str) -> list[str]:
    """The problems of a command line, as train.py reports them."""
    with pytest.raises(UserError) as caught:
        config_of(*argv)
    assert caught.value.code == Exit.CONFIG
    return list(caught.value.messages)


def test_every_option_is_a_flag_and_help_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        options_of("--help-all")
    assert left.value.code == 0
    text = capsys.readouterr().out
    words = text.replace(",", " ").split()
    options = Options()
    for name in options.names():
        assert flag_of(name) in words, name
        if options.is_bool(name):
            assert flag_of(name).replace("--", "--no-", 1) in words, name
        if name in options.choices:
            assert "{" + ",".join(options.members(name)) + "}" in text, name
    assert "(default: 6e-4)" in text
    assert "(with --lr-schedule wsd)" in text


def test_help_says_default_or_need_of_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options_of("--help-all")
    _, _, details = capsys.readouterr().out.partition("what to do:")
    options = Options()
    entries = [" ".join(entry.split()) for entry in re.split(r"\n  (?=--)", details)]
    for name in options.names():
        start = flag_of(name) + ("," if options.is_bool(name) else " ")
        (entry,) = [entry for entry in entries if entry.startswith(start)]
        unmet = options.unmet_flags(name)
        value = options.value(name)
        shown = {"y": "on", "n": "off"}.get(value or "") if options.is_bool(name) else value
        wanted = f"(default: {shown or 'none'})"
        if value is None:
            wanted = f"(with {' and '.join(unmet)})"
        assert wanted in entry, name


def test_help_leaves_out_what_only_one_plugin_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        options_of("--help")
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: train.py [options]\n")
    assert "--learning-rate X" in text
    assert "--sgd-momentum" not in text
    assert "--help-all" in text
    assert "make explain OPTION=" in text
    assert len(text.splitlines()) < 180


def test_not_given_is_distinguishable_from_the_default() -> None:
    assert options_of().given == {}
    given = options_of("--batch-size", "32", "--bias").given
    assert {name: assignment.value for name, assignment in given.items()} == {
        "BATCH_SIZE": "32",
        "BIAS": "y",
    }
    assert config_of("--batch-size", "32", "--bias") == config_of()


def test_both_forms_of_a_value_and_of_a_bool() -> None:
    assert config_of("--batch-size=5").train == config_of("--batch-size", "5").train
    assert config_of("--batch-size=5").train.batch_size == 5
    assert config_of("--no-bias").model.bias is False
    assert config_of("--compile").machine.compile is True


def test_the_last_of_a_repeated_flag_counts() -> None:
    config = config_of(
        "--seed",
        "1",
        "--bias",
        "--optimizer",
        "sgd",
        "--seed=2",
        "--no-bias",
        "--optimizer",
        "adam",
    )
    assert (config.train.seed, config.model.bias, config.optim.optimizer) == (2, False, "adam")
    # Also where the first was wrong: a command line is extended at its end.
    assert config_of("--seed", "x", "--seed", "3").train.seed == 3


def test_auto_and_numbers() -> None:
    assert config_of("--warmup-steps", "auto").optim.warmup_steps is None
    assert config_of("--warmup-steps", "7").optim.warmup_steps == 7


@pytest.mark.parametrize("value", ["-1e-3", "-1", "-inf", "-.5"])
def test_a_negative_number_is_a_value(value: str) -> None:
    wanted = [f"--learning-rate: {value} is outside [0, inf)"]
    assert refused("--learning-rate", value) == wanted
    assert refused(f"--learning-rate={value}") == wanted


def test_given_paths_are_relative_to_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_of().data.data_dir == REPOSITORY / "data"
    assert config_of("--data-dir", "data").data.data_dir == tmp_path / "data"
    assert config_of("--data-dir", "../x").data.data_dir == tmp_path.parent / "x"
    assert config_of("--data-dir", "/x").data.data_dir == Path("/x")
    assert config_of("--data-dir=-odd dir").data.data_dir == tmp_path / "-odd dir"


def test_a_gpu_has_a_number_behind_a_colon() -> None:
    assert config_of("--device", "cuda").machine.device_index == 0
    assert config_of("--device", "cpu").machine.device_index is None
    for flags in (["--device", "cuda:1"], ["--device", "cuda", "--device-index", "1"]):
        machine = config_of(*flags).machine
        assert (machine.device, machine.device_index) == ("cuda", 1)
    options, _ = parse("x.py", "", ["--device", "cuda:1"], Actions)
    lines = options.full_text().splitlines()
    assert "CONFIG_DEVICE_CUDA=y" in lines
    assert "CONFIG_DEVICE_INDEX=1" in lines
    known = "(choose from auto, cuda, cpu, mps, or cuda:N)"
    for wrong in ("cuda:", "cuda:x", "cuda:-1", "cpu:0"):
        (message,) = refused("--device", wrong)
        assert message.startswith(f"--device {wrong!r} is unknown")
        assert message.endswith(known)
    assert refused("--device", "cuda:1", "--device-index", "2") == [
        "--device-index 2 contradicts --device cuda:1: give one of them"
    ]
    assert refused("--device", "cpu", "--device-index", "1") == [
        "--device-index has no effect here: it needs --device cuda"
    ]


def test_an_entry_takes_only_its_options() -> None:
    options, _ = parse("x.py", "", ["--device", "cpu"], Actions, ["DEVICE"])
    assert options.value("DEVICE") == "cpu"
    with pytest.raises(UserError, match="unknown flag --seed"):
        parse("x.py", "", ["--seed", "3"], Actions, ["DEVICE"])


def test_an_unknown_flag_names_the_nearest() -> None:
    (message,) = refused("--learning-rat", "1")
    assert message == "unknown flag --learning-rat; did you mean --learning-rate? (see --help)"
    (message,) = refused("--warmup=3")
    assert message.startswith("unknown flag --warmup=3; did you mean --warmup-steps?")
    assert refused("--qqqq", "-1") == ["unknown flag --qqqq (see --help)"]
    assert refused("stray") == ["unexpected argument stray (see --help)"]
    assert refused("-x") == ["unknown flag -x (see --help)"]


def test_flags_are_not_abbreviated() -> None:
    assert refused("--batch", "3")[0].startswith("unknown flag --batch")


@pytest.mark.parametrize("argv", [["--batch-size"], ["--batch-size", "--seed", "3"]])
def test_a_missing_value(argv: list[str]) -> None:
    assert refused(*argv) == ["--batch-size needs a value (see --help)"]


def test_an_unknown_flag_is_no_value() -> None:
    assert refused("--batch-size", "--seeed", "3") == [
        "--batch-size needs a value (see --help)",
        "unknown flag --seeed; did you mean --seed? (see --help)",
    ]


def test_a_value_too_many() -> None:
    assert refused("--bias=no") == ["--bias=no: --bias takes no value (see --help)"]


def test_unmet_dependencies_name_what_is_needed() -> None:
    assert refused("--sgd-momentum", "0.9") == [
        "--sgd-momentum has no effect here: it needs --optimizer sgd"
    ]
    assert refused("--no-sgd-nesterov") == [
        "--sgd-nesterov has no effect here: it needs --optimizer sgd"
    ]


def test_everything_wrong_is_said_at_once() -> None:
    found = refused(
        "--bogus", "3", "--compile=yes", "--optimizer", "adamv", "--seed", "-5", "--n-layer", "3",
        "--adamw-beta1", "2", "--batch-size", "many", "--dropout", "x", "--run-dir=", "--max-time",
    )  # fmt: skip
    wanted = [
        "--compile=yes:", "--max-time needs", "unknown flag --bogus", "--run-dir: a path is needed",
        "--optimizer 'adamv' is unknown", "--batch-size: 'many' is not", "--seed: -5 is out",
        "--n-layer has no effect here", "--adamw-beta1: 2 is outside", "--dropout: 'x' is not",
    ]  # fmt: skip
    assert len(found) == len(wanted)
    for start in wanted:
        assert [text for text in found if text.startswith(start)], start


def test_empty_paths_are_refused() -> None:
    assert refused("--data-dir", "") == ["--data-dir: a path is needed"]
    assert refused("--run-dir", "") == ["--run-dir: a path is needed"]


def test_actions_have_their_defaults_and_values() -> None:
    assert actions_of() == Actions(where=None, often=3, again=None, force=False)
    assert actions_of("--where", "a b", "--often", "4", "--again", "--force") == Actions(
        where=Path("a b"), often=4, again=True, force=True
    )
    assert actions_of("--no-again").again is False


def test_actions_are_no_options() -> None:
    for actions in (TrainActions, SampleActions):
        for name in actions.__annotations__:
            if name != "seed":  # sample.py's own; it takes no option of that name
                assert name.upper() not in Options().names()
    options, _ = parse("x.py", "", ["--run", "r", "--seed", "3"], SampleActions, ["DEVICE"])
    assert options.given == {}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--often", "10"], "--often: 10 is outside [1, 9]"),
        (["--often", "x"], "--often: 'x' is not a whole number"),
        (["--no-force"], "unknown flag --no-force"),
    ],
)
def test_wrong_actions_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        actions_of(*argv)
    assert caught.value.messages[0].startswith(message)


def test_a_needed_action_is_asked_for_beside_other_problems() -> None:
    with pytest.raises(UserError) as caught:
        parse("x.py", "", ["--device"], Needy)
    assert caught.value.messages == (
        "--device needs a value (see --help)",
        "the following arguments are required: --run (see --help)",
    )


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_and_errors_come_before_torch(entry: str, without_torch: RunScript) -> None:
    shown = without_torch(f"gpt2/{entry}", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"usage: {entry}")
    wrong = without_torch(f"gpt2/{entry}", "--bogus", "1")
    assert (wrong.returncode, wrong.stdout) == (Exit.CONFIG, "")
    assert wrong.stderr.startswith(f"{entry}: error: ")


def test_there_are_entries() -> None:
    assert {"train.py", "prepare_data.py"} <= set(ENTRIES)


def test_option_errors_come_before_torch(without_torch: RunScript) -> None:
    done = without_torch(
        "gpt2/train.py", "--adamw-beta1", "2", "--batch-size", "0", "--sgd-momentum", "0.9"
    )
    assert done.returncode == Exit.CONFIG
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "train.py: error: --sgd-momentum has no effect here: it needs --optimizer sgd",
        "train.py: error: --batch-size: 0 is out of range 1..65536",
        "train.py: error: --adamw-beta1: 2 is outside [0, 1)",
    ]


def test_the_check_for_torch_works(without_torch: RunScript, tmp_path: Path) -> None:
    done = without_torch("gpt2/train.py", "--data-dir", str(tmp_path), "--max-steps", "1")
    assert done.returncode == 99


@pytest.mark.parametrize(
    ("here", "command", "safe"),
    [
        (".", ["gpt2/train.py"], ""),
        ("gpt2", ["train.py"], ""),
        (".", ["-m", "gpt2.train"], ""),
        ("gpt2", ["train.py"], "1"),
        ("/", [str(REPOSITORY / "gpt2" / "train.py")], ""),
    ],
)
def test_the_entries_start_from_everywhere(
    here: str, command: list[str], safe: str, without_torch: RunScript
) -> None:
    flags = ["--optimizer", "sgd", "--sgd-nesterov", "--check-config"]
    done = without_torch(*command, *flags, here=REPOSITORY / here, PYTHONSAFEPATH=safe)
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid" in done.stdout


def test_the_environment_is_no_input(without_torch: RunScript) -> None:
    noise = {
        "srctree": "/nowhere", "CONFIG_": "X_", "KCONFIG_CONFIG": "/nowhere", "SEED": "-1",
        "CONFIG_SEED": "-1", "BATCH_SIZE": "0", "KCONFIG_STRICT": "y", "GPT2_SEED": "-1",
    }  # fmt: skip
    plain, noisy = (
        without_torch("gpt2/train.py", "--help"),
        without_torch("gpt2/train.py", "--help", **noise),
    )
    assert noisy.stdout == plain.stdout
    assert noisy.returncode == 0
