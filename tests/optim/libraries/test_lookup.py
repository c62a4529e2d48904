"""Optimizers of libraries and of one's own: names, arguments, refusals, runs, files."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
import torch
from torch import nn

from gpt2 import evaluate, sample
from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import Exit, UserError
from gpt2.config.library import LIBRARIES, split_arguments
from gpt2.config.options import Options
from gpt2.config.text import pip_install
from gpt2.optim.groups import parameter_groups
from gpt2.optim.libraries import lookup
from gpt2.optim.libraries.arguments import typed_arguments
from gpt2.optim.libraries.compatibility import COMPATIBLE
from gpt2.planning import optimizer_list
from gpt2.run_dir.resume import load_config
from scripts import flags
from tests.conftest import WriteConfig
from tests.support import tiny

OWN = """
import torch


class Mine(torch.optim.SGD):
    def __init__(self, params, lr, *, drag=0.5, weight_decay=0.0, **more):
        assert lr == params[0]["lr"]
        super().__init__(params, lr, momentum=drag, weight_decay=weight_decay)


class Careless(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})


def function(params):
    return Mine(params)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of one's own with optimizers."""
    (tmp_path / "own_optimizers.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_optimizers", raising=False)
    return "own_optimizers"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


RATE = ("--learning-rate", "0.01")


def given(*argv: str) -> Options:
    """The options of a command line that gives the rate, which an optimizer of a library needs."""
    options, _ = parse("train.py", "", (*RATE, *argv), TrainActions)
    bind(options)
    return options


def check_flags(*argv: str) -> None:
    """Check the flags as train.py does before there is a run."""
    optim = bind(given(*argv)).optim
    arguments = split_arguments(optim.options.arguments)
    lookup.check(optim.options.name, arguments, optim.weight_decay, 1)


def refusal(*argv: str) -> str:
    """Return the one message with which the flags are refused before anything else happens."""
    with pytest.raises(UserError) as caught:
        check_flags(*argv)
    assert caught.value.code == Exit.CONFIG
    (message,) = caught.value.messages
    assert "\n" not in message
    return message


def check(name: str, arguments: str = "", decay: float = 0.0, ranks: int = 1) -> None:
    lookup.check(name, split_arguments(arguments), decay, ranks)


def test_one_flag_sets_the_choice_and_the_name() -> None:
    options = given("--optimizer", "po:lion")
    assert options.value("OPTIMIZER") == "library"
    assert options.value("OPTIMIZER_NAME") == "po:lion"
    twice = given("--optimizer", "library", "--optimizer-name", "po:lion")
    assert bind(twice) == bind(options)


def test_of_two_optimizers_the_last_counts() -> None:
    assert given("--optimizer", "po:soap", "--optimizer", "adamw").value("OPTIMIZER_NAME") is None


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("--optimizer", "adamv"), "did you mean adam or"),
        (
            ("--optimizer", "po:sopa"),
            "pytorch_optimizer has no 'sopa' that was tested; did you mean",
        ),
        (("--optimizer", "po:"), "'po:' names no optimizer: use po:NAME, bnb:NAME, ao:NAME"),
        (("--optimizer", "po:adahessian"), "second derivatives"),
        (("--optimizer", "po:adamw"), "built in: --optimizer adamw"),
        (("--optimizer", "library", "--optimizer-name", "soap"), "'soap' names no optimizer"),
        (("--optimizer", "torch:Adam"), "the usual optimizers are built in: --optimizer adam;"),
        (("--optimizer", "po:sophia"), "po:sophiah exists but cannot be used here: it needs"),
        (("--optimizer", "po:soap", "--optimizer-name", "po:lion"), "contradicts --optimizer"),
        (
            ("--optimizer", "po:soap", "--shard", "fsdp"),
            "--shard: 'fsdp' cannot be chosen here: it needs --optimizer adagrad, adam, ",
        ),
        (("--optimizer", "adamw", "--opt-arg", "eps=1"), "it needs --optimizer library"),
        (("--optimizer", "nowhere.at.all:Lion"), "no library or module 'nowhere'"),
        (("--optimizer", "json:Lion"), "Lion not found (optimizers in json: none)"),
        (("--optimizer", "torch.optim:SDG"), "did you mean SGD"),
        (("--optimizer", "po:prodigy"), "give --weight-decay 0"),
        (("--optimizer", "po:sm3"), "has no weight decay; give --weight-decay 0"),
    ],
)
def test_bad_names_are_refused_with_one_line(argv: tuple[str, ...], complaint: str) -> None:
    assert complaint in refusal(*argv)


def test_a_wrong_name_is_said_before_the_rate_and_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "classes", lambda _: pytest.fail("the library was imported"))
    with pytest.raises(UserError) as caught:
        bind(parse("train.py", "", ("--optimizer", "po:sophia"), TrainActions)[0])
    name, rate = caught.value.messages
    assert name.startswith("--optimizer po:sophia: po:sophiah exists but cannot be used here")
    assert rate.startswith("--learning-rate is needed")


def test_a_name_that_the_installed_version_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "classes", lambda _: {})
    assert "pytorch_optimizer has no 'soap' here" in refusal("--optimizer", "po:soap")


def test_a_newer_name_is_refused_until_it_was_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(COMPATIBLE["po"], "soap")
    assert "has no 'soap' that was tested" in refusal("--optimizer", "po:soap")


def test_a_missing_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    message = refusal("--optimizer", "bnb:adamw8bit")
    assert message.endswith(
        "needs the package bitsandbytes: " + pip_install("bitsandbytes>=0.50,<0.51")
    )


@pytest.mark.parametrize(("version", "right"), [("3.9.0", False), ("4.1.0", True), ("5.0", False)])
def test_other_versions_are_refused(
    version: str, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.9 has a SPAM whose clipping works on a copy."""
    importlib.import_module("pytorch_optimizer")  # its packages look at versions, too
    monkeypatch.setattr(lookup.metadata, "version", lambda _: version)
    if right:
        check("po:soap")
    else:
        assert "not a version that was tested" in refusal("--optimizer", "po:soap")


def test_one_rank_alone_draws_random_numbers() -> None:
    check("po:alice")
    with pytest.raises(UserError, match="2 ranks would go different ways"):
        check("po:alice", ranks=2)
    check("po:soap", ranks=2)


def test_arguments_add_up_and_the_last_of_a_key_counts() -> None:
    first = ("--optimizer", "po:soap", "--opt-args", "eps=1e-6,betas=0.9:0.9")
    assert given(*first).value("OPT_ARGS") == "eps=1e-6,betas=0.9:0.9"
    more = given(*first, "--opt-arg", "eps=1e-7", "--opt-arg", "correct_bias=false")
    assert more.value("OPT_ARGS") == "betas=0.9:0.9,eps=1e-7,correct_bias=false"
    assert given("--optimizer", "po:soap", "--opt-arg", "eps=1").value("OPT_ARGS") == "eps=1"


def specimen(  # noqa: PLR0913, PLR0917 - one of each
    params: list[nn.Parameter],
    lr: float = 0.1,
    count: int = 1,
    eps: float = 1e-8,
    either: int | float = 1,
    flag: bool = False,
    word: str = "",
    kind: Literal["round", "square"] = "round",
    maybe: Optional[float] = None,  # noqa: UP045 - as libraries write it
    betas: tuple[float, float] | tuple[float, float, float] = (0.9, 0.99),
    steps: tuple[int, ...] = (1,),
    bare: tuple = (0.9, 0.99),  # type: ignore[type-arg]
    call: Callable[[int], int] | None = None,
    rate_1d: float = 0.1,
    by_default=2.5,
    **more: Any,
) -> None:
    """Has a parameter of every type."""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("count=3", 3),
        ("eps=1", 1.0),
        ("either=2", 2),
        ("either=2.5", 2.5),
        ("flag=true", True),
        ("flag=False", False),
        ("word=2", "2"),
        ("kind=square", "square"),
        ("maybe=none", None),
        ("maybe=1e-3", 1e-3),
        ("betas=0.9:0.95", (0.9, 0.95)),
        ("betas=0.9:0.95:0.99", (0.9, 0.95, 0.99)),
        ("steps=1:2:3:4", (1, 2, 3, 4)),
        ("bare=0.5:0.6", (0.5, 0.6)),
        ("call=none", None),
        ("by_default=3", 3.0),
    ],
)
def test_an_argument_has_the_type_of_the_signature(text: str, value: object) -> None:
    (found,) = typed_arguments("it", specimen, split_arguments(text)).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("count=3.5", "count=3.5: it wants int"),
        ("eps=small", "it wants float"),
        ("flag=1", "it wants bool"),
        ("kind=oval", "it wants Literal['round', 'square']"),
        ("maybe=", "maybe=: it wants "),
        ("betas=0.9", "it wants tuple[float, float] | tuple[float, float, float], with colons"),
        ("betas=0.9:x", "it wants tuple[float, float]"),
        ("betas=1:2:3:4", "it wants tuple[float, float]"),
        ("steps=1:2.5", "it wants tuple[int, ...], with colons"),
        ("call=3", "call=3: it wants "),
        ("bettas=1", "it takes no bettas; did you mean betas?"),
        ("more=1", "it takes no more"),
        ("lr=1", "it is --learning-rate"),
        ("weight_decay=1", "it is --weight-decay"),
        ("params=1", "given already"),
        ("rate_1d=1", "it takes no rate_1d"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        typed_arguments("it", specimen, split_arguments(text), reserved=("rate_1d",))
    assert complaint in caught.value.messages[0]


@pytest.mark.parametrize("text", ["betas", "=3", "eps=1,,x", "two words=1"])
def test_arguments_written_wrongly_are_refused_without_the_library(text: str) -> None:
    assert "--opt-arg" in refusal("--optimizer", "po:soap", "--opt-args", text)


def test_a_file_may_not_give_an_argument_twice(write_config: WriteConfig) -> None:
    config = write_config("CONFIG_OPTIMIZER_LIBRARY=y", 'CONFIG_OPT_ARGS="eps=1,eps=2"')
    with pytest.raises(UserError, match="gives eps twice"):
        flags.flags(config)


def test_every_wrong_argument_is_named_and_nothing_is_made(data: Path, tmp_path: Path) -> None:
    more = (*RATE, "--optimizer", "po:soap", "--opt-arg", "bettas=1", "--opt-arg", "eps=small")
    with pytest.raises(UserError) as caught:
        tiny.train(data, tmp_path / "run", *more)
    assert len(caught.value.messages) == 2
    assert not (tmp_path / "run").exists()


def test_what_the_constructor_refuses_is_an_error_of_the_user(data: Path, tmp_path: Path) -> None:
    more = (*RATE, "--optimizer", "po:soap", "--opt-arg", "betas=2:0.9")
    with pytest.raises(UserError, match="po:soap cannot be built: beta1 must be in"):
        tiny.train(data, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()


def test_checking_the_options_checks_those_of_the_library(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gpt2.train import main

    right = ["--check-config", "--optimizer", "po:soap", *RATE]
    assert main([*right, "--opt-arg", "eps=1e-6"]) == 0
    with pytest.raises(UserError, match="takes no epsilon; did you mean eps"):
        main([*right, "--opt-arg", "epsilon=1e-6"])


def groups() -> list[dict[str, Any]]:
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4))
    return parameter_groups(model, 0.02, 0.3)


def test_arguments_and_groups_arrive() -> None:
    built = lookup.find("po:soap").build(groups(), {"betas": "0.8:0.7"})
    assert type(built).__name__ == "SOAP"
    assert [group["betas"] for group in built.param_groups] == [(0.8, 0.7)] * 3
    assert [group["lr"] for group in built.param_groups] == [0.02] * 3
    decays = {group["role"]: group["weight_decay"] for group in built.param_groups}
    assert decays == {"matrix": 0.3, "embedding": 0.3, "vector": 0.0}


def test_decay_is_decoupled_unless_another_is_asked_for() -> None:
    adan = lookup.find("po:adan")
    assert adan.build(groups(), {}).param_groups[0]["weight_decouple"] is True
    asked = adan.build(groups(), {"weight_decouple": "false"})
    assert asked.param_groups[0]["weight_decouple"] is False


def test_muon_of_the_library_takes_the_matrices() -> None:
    built = lookup.find("po:muon").build(groups(), {})
    used = {group["role"]: group["use_muon"] for group in built.param_groups}
    assert used == {"matrix": True, "embedding": False, "vector": False}
    with pytest.raises(UserError, match="takes no adamw_lr"):
        lookup.find("po:muon").build(groups(), {"adamw_lr": "1"})


def test_ones_own_is_built_with_its_arguments(mine: str) -> None:
    built = lookup.find(f"{mine}:Mine").build(groups(), {"drag": "0.25"})
    assert type(built).__name__ == "Mine"
    assert built.param_groups[0]["momentum"] == 0.25


@pytest.mark.parametrize(
    ("name", "arguments", "decay", "complaint"),
    [
        ("Mine", "drags=1", 0.0, "takes no drags; did you mean drag?"),
        ("Mein", "", 0.0, "Mein not found; did you mean Mine?"),
        ("function", "", 0.0, "function is not a torch.optim.Optimizer"),
        ("Careless", "", 0.1, "has no weight decay; give --weight-decay 0"),
    ],
)
def test_ones_own_is_checked(
    name: str, arguments: str, decay: float, complaint: str, mine: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(f"{mine}:{name}", arguments, decay)
    assert complaint in str(caught.value)


def test_a_file_has_no_code_executed(
    mine: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A run of one's own optimizer can be used, but goes on only by its flag."""
    more = (*RATE, "--optimizer", f"{mine}:Mine", "--opt-arg", "drag=0.25", "--max-steps", "2")
    run = tmp_path / "runs" / "own"
    assert tiny.train(data, run, *more) == Exit.OK
    assert load_config(run).optim.options.name == f"{mine}:Mine"
    monkeypatch.setitem(sys.modules, mine, None)  # from here on it cannot be imported
    assert evaluate.main(["--run", str(run)]) == 0
    assert sample.main(["--run", str(run), "--tokens", "3"]) == 0
    with pytest.raises(UserError) as caught:
        flags.flags(run / "config", ["--run-dir", str(run)])
    message = caught.value.messages[0]
    assert f"names code of your own ({mine}:Mine)" in message
    _, _, *argv = shlex.split(message.partition("want to run: ")[2])
    options, actions = parse("train.py", "", argv, TrainActions)
    assert options.value("OPTIMIZER_NAME") == f"{mine}:Mine"
    assert options.value("OPT_ARGS") == "drag=0.25"
    assert actions.run_dir == run


def test_a_config_gives_the_flag_of_a_library(write_config: WriteConfig) -> None:
    config = write_config(
        "CONFIG_OPTIMIZER_LIBRARY=y", 'CONFIG_OPTIMIZER_NAME="po:lion"',
        'CONFIG_OPT_ARGS="betas=0.9:0.95"', 'CONFIG_LEARNING_RATE="1e-4"',
    )  # fmt: skip
    rate = ["--learning-rate", "1e-4"]
    found = flags.flags(config)
    assert found == ["--optimizer", "po:lion", "--opt-args", "betas=0.9:0.95", *rate]
    default = write_config("CONFIG_OPTIMIZER_LIBRARY=y", 'CONFIG_LEARNING_RATE="1e-4"')
    assert flags.flags(default) == ["--optimizer", "po:soap", *rate]


def test_the_rate_is_demanded_since_none_suits_all(write_config: WriteConfig) -> None:
    with pytest.raises(UserError) as caught:
        bind(parse("train.py", "", ("--optimizer", "po:prodigy"), TrainActions)[0])
    (message,) = caught.value.messages
    assert message.startswith("--learning-rate is needed: an optimizer of a library has no default")
    assert "docs/optimizers.md" in message
    with pytest.raises(UserError, match="--learning-rate is needed"):
        flags.flags(write_config("CONFIG_OPTIMIZER_LIBRARY=y"))
    # As the menu hands over what was not typed in, which others have a default for.
    empty = 'CONFIG_LEARNING_RATE=""'
    with pytest.raises(UserError, match="--learning-rate is needed"):
        flags.flags(write_config("CONFIG_OPTIMIZER_LIBRARY=y", empty))
    with pytest.raises(UserError, match="CONFIG_LEARNING_RATE: '' is"):
        flags.flags(write_config(empty))


def test_a_run_is_recorded_and_no_other_optimizer_goes_on(data: Path, tmp_path: Path) -> None:
    more = (*RATE, "--optimizer", "po:soap", "--opt-arg", "eps=1e-6", "--max-steps", "2")
    run = tmp_path / "run"
    assert tiny.train(data, run, *more) == Exit.OK
    record = json.loads((run / "run.json").read_text())
    assert record["versions"]["pytorch_optimizer"] == "4.1.0"
    assert 'CONFIG_OPT_ARGS="eps=1e-6"' in (run / "config").read_text()
    (run / "summary.json").unlink()
    with pytest.raises(UserError) as caught:
        tiny.train(data, run, *RATE, "--optimizer", "po:lion", "--max-steps", "2")
    assert [message.split(" is ")[0] for message in caught.value.messages] == [
        "--opt-args",
        "--optimizer-name",
    ]


def test_the_list_shows_what_can_be_and_what_cannot(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"po": {name: COMPATIBLE["po"][name] for name in ("lion", "soap", "sm3")}}
    for prefix in LIBRARIES:
        monkeypatch.setitem(COMPATIBLE, prefix, few.get(prefix, {}))
    monkeypatch.setitem(sys.modules, "torchao", None)
    optimizer_list.show()
    out = capsys.readouterr().out
    can, _, cannot = out.partition("Unavailable:")
    rows = {line.split()[0]: line.split()[1:] for line in can.splitlines() if line.strip()}
    assert rows["adamw"][0] == "8.00"
    assert rows["po:lion"] == ["4.00", "decoupled"]
    assert rows["po:sm3"][1] == "none"
    assert float(rows["po:soap"][0]) > 8.0
    assert "po:adahessian" in cannot
    assert "po:adopt                 not in the table of versions tested" in cannot
    assert f"ao:NAME                  needs the package torchao: {sys.executable} -m pip" in cannot
    assert "library" not in rows


def test_state_is_measured_as_it_is() -> None:
    model = optimizer_list.sample_model()
    optimizer = torch.optim.Adam(parameter_groups(model, 0.1, 0.0), amsgrad=True)
    scalars = 4 * len(list(model.parameters())) / model.parameter_count()  # the steps
    assert optimizer_list.state_bytes(model, optimizer) == pytest.approx(12 + scalars)
