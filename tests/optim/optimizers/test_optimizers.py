"""Every optimizer in the folder: a battery; their options; adding one."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2.config import plugins
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY
from gpt2.config.typed import QUALIFIED
from gpt2.optim.schedule import Schedule
from tests.support.small import PACKAGE, Small, bound, build

#: Those of libraries have the battery of tests/support/conformance.py.
BUILT_IN = [name for name in plugins.names(PACKAGE) if name != QUALIFIED["OPTIMIZER"][0]]
EVERY_OPTIMIZER = pytest.mark.parametrize("name", BUILT_IN)


@pytest.mark.slow
@EVERY_OPTIMIZER
def test_descends_at_its_default_rate(name: str) -> None:
    model = Small()
    optimizer = build(name, model)
    losses = []
    for _ in range(500):
        loss = model.loss()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert losses[-1] < losses[100] < losses[0]


@pytest.mark.slow
@EVERY_OPTIMIZER
def test_a_rate_of_zero_trains_nothing(name: str) -> None:
    model = Small()
    optimizer = build(name, model, rate=0.0)
    before = model.copies()
    for seed in range(3):
        model.give_gradients(seed)
        optimizer.step()
    assert all(torch.equal(after, before[name]) for name, after in model.copies().items())


@EVERY_OPTIMIZER
def test_the_schedule_scales_the_update(name: str) -> None:
    moved = {}
    for progress in (0.0, 0.75):
        model = Small(torch.float64)
        optimizer = build(name, model, decay=0.0)
        before = model.copies()
        Schedule("linear", 0.0, 0, 100).apply(optimizer, 1, progress)
        model.give_gradients(1)
        optimizer.step()
        moved[progress] = {key: after - before[key] for key, after in model.copies().items()}
    for key, whole in moved[0.0].items():
        assert torch.count_nonzero(whole) == whole.numel()
        torch.testing.assert_close(moved[0.75][key], 0.25 * whole)


@EVERY_OPTIMIZER
def test_matrices_and_embeddings_decay_and_vectors_do_not(name: str) -> None:
    model = Small()
    optimizer = build(name, model, rate=0.01)
    before = model.copies()
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    for key, after in model.copies().items():
        if after.ndim >= 2:
            assert after.norm() < before[key].norm(), key
        else:
            assert torch.equal(after, before[key]), key


@EVERY_OPTIMIZER
def test_going_on_from_its_state_is_going_on(name: str) -> None:
    results = []
    for interrupted in (False, True):
        model = Small()
        optimizer = build(name, model)
        for seed in range(6):
            if interrupted and seed == 3:
                state = optimizer.state_dict()
                optimizer = build(name, model)
                optimizer.load_state_dict(state)
            model.give_gradients(seed)
            optimizer.step()
        results.append(model.copies())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@EVERY_OPTIMIZER
def test_who_has_a_second_moment_says_so(name: str) -> None:
    options = Options()
    options.give("OPTIMIZER", name, "--optimizer")
    model = Small()
    optimizer = build(name, model)
    model.give_gradients(0)
    optimizer.step()
    matrix = model.linear.weight
    moment = optimizer.state[matrix].get("exp_avg_sq")
    has = moment is not None and moment.shape == matrix.shape
    assert (options.value("HAS_SECOND_MOMENT") == "y") == has


@EVERY_OPTIMIZER
def test_every_module_says_what_it_is_and_builds(name: str) -> None:
    plugin = plugins.load(PACKAGE, name)
    assert plugin.__doc__
    assert list(inspect.signature(plugin.build).parameters) == ["groups", "options"]


def test_the_folder_and_the_menu_hold_the_same_names() -> None:
    assert plugins.names(PACKAGE) == sorted(Options().members("OPTIMIZER"))


@pytest.mark.parametrize(
    ("name", "symbol", "value", "complaint"),
    [
        (name, f"{name.upper()}_{option}", value, complaint)
        for name in ("adam", "adamw")
        for option, value, complaint in [
            ("BETA1", "1.0", "outside [0, 1)"),
            ("BETA1", "-0.1", "outside [0, 1)"),
            ("BETA2", "1", "outside [0, 1)"),
            ("BETA2", "nan", "outside [0, 1)"),
            ("EPS", "0", "outside (0, inf)"),
            ("EPS", "inf", "outside (0, inf)"),
            ("EPS", "small", "is not a number"),
        ]
    ]
    + [
        ("sgd", "SGD_MOMENTUM", "1", "outside [0, 1)"),
        ("sgd", "SGD_MOMENTUM", "-0.9", "outside [0, 1)"),
    ],
)
def test_options_out_of_range_are_refused(
    name: str, symbol: str, value: str, complaint: str
) -> None:
    with pytest.raises(UserError) as caught:
        bound(name, **{symbol: value})
    [message] = caught.value.messages
    assert message.startswith("--" + symbol.lower().replace("_", "-"))
    assert complaint in message


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_options_at_the_ends_of_their_ranges_are_taken(name: str) -> None:
    prefix = name.upper()
    given = {f"{prefix}_BETA1": "0", f"{prefix}_BETA2": "0.999999", f"{prefix}_EPS": "1e-30"}
    options = bound(name, **given).options
    assert (options.beta1, options.beta2, options.eps) == (0.0, 0.999999, 1e-30)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(UserError, match="--sgd-nesterov needs an --sgd-momentum above 0"):
        bound("sgd", SGD_NESTEROV="y", SGD_MOMENTUM="0")
    assert bound("sgd", SGD_NESTEROV="y").options.nesterov is True


def test_an_option_of_another_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match="no effect here: it needs --optimizer sgd"):
        bound("adamw", SGD_MOMENTUM="0.5")


OPTIMIZER_FILE = '''
"""Steps of equal size against the sign of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within


@dataclass(frozen=True)
class Options:
    reach: Annotated[float, Within("(0, 2]")]


class Signs(torch.optim.SGD):
    def __init__(self, groups: list[dict[str, Any]], reach: float) -> None:
        super().__init__(groups)
        self.reach = reach


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    return Signs(groups, options.reach)
'''
METHOD_FILE = '''
"""Prunes a share of nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from gpt2.config.typed import Within
from gpt2.prune.base import PruningContext
from gpt2.prune.methods.none import Dense
from gpt2.prune.pruner import Pruner


@dataclass(frozen=True)
class Options:
    share: Annotated[float, Within("[0, 1)")]


class Slight(Dense):
    share = 0.0


def build(setting: PruningContext, options: Options) -> Pruner:
    pruner = Slight()
    pruner.share = options.share
    return pruner
'''
BUILDS_BOTH = """
from torch import nn
from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.typed import PLUGIN_PACKAGES
from gpt2.config.actions import TrainActions
from gpt2.optim.groups import parameter_groups
argv = ["--optimizer", "signs", "--signs-reach", "1.5", "--pruning-method", "slight"]
config = bind(parse("train.py", "", argv, TrainActions)[0])
model = nn.Linear(2, 2)
groups = parameter_groups(model, 0.1, 0.0)
optimizer = plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], config.optim.optimizer)
method = plugins.load(PLUGIN_PACKAGES["PRUNING_METHOD"], config.prune.pruning_method)
print(optimizer.build(groups, config.optim.options).reach)
print(method.build(None, config.prune.options).share)
"""


def write_entry(folder: Path, choice: str, name: str, option: str, default: str) -> None:
    """Write a plug-in's Kconfig file: a member of its choice, and its one option."""
    member = f'choice {choice}\n\nconfig {choice}_{name}\n\tbool "{name}"\n\nendchoice\n'
    own = (
        f'\nconfig {name}_{option}\n\tstring "{name}: its {option}"\n'
        f'\tdepends on {choice}_{name}\n\tdefault "{default}"\n'
    )
    (folder / f"{name.lower()}.Kconfig").write_text(member + own, encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with one optimizer and one pruning method more."""
    root = tmp_path_factory.mktemp("extended")
    shutil.copytree(
        REPOSITORY / "gpt2",
        root / "gpt2",
        ignore=shutil.ignore_patterns("__pycache__", "vocabulary"),
    )
    shutil.copy(REPOSITORY / "Kconfig", root)
    optimizers, methods = root / "gpt2/optim/optimizers", root / "gpt2/prune/methods"
    (optimizers / "signs.py").write_text(OPTIMIZER_FILE, encoding="utf-8")
    (methods / "slight.py").write_text(METHOD_FILE, encoding="utf-8")
    write_entry(optimizers, "OPTIMIZER", "SIGNS", "REACH", "1.0")
    write_entry(methods, "PRUNING_METHOD", "SLIGHT", "SHARE", "0.25")
    return root


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, capture_output=True, text=True, check=False
    )


@pytest.fixture
def train(extended: Path) -> Any:
    """Run the copy's train.py where importing torch ends the process with code 99."""
    poison = extended / "torch.py"
    poison.write_text("import os\nos._exit(99)\n")
    yield lambda *flags: python(extended, "gpt2/train.py", *flags)
    poison.unlink()


def test_a_new_plugins_name_and_options_are_flags(train: Any) -> None:
    result = train("--help-all")
    assert result.returncode == 0, result.stderr
    assert ",signs}" in result.stdout
    assert ",set,slight,sparsegpt,state,static,wanda}" in result.stdout
    assert "--signs-reach X" in result.stdout
    assert "--slight-share X" in result.stdout


def test_a_new_plugins_options_are_checked_before_torch_is_imported(train: Any) -> None:
    good = ("--optimizer", "signs", "--signs-reach", "2", "--pruning-method", "slight")
    assert train("--check-config", *good).returncode == 0
    assert train("--data-dir", "/nowhere", *good).returncode == 99  # past the checks: torch
    bad = train("--optimizer", "signs", "--signs-reach", "2.5", "--pruning-method", "slight",
                "--slight-share", "1")  # fmt: skip
    assert bad.returncode == 2
    assert bad.stderr.splitlines() == [
        "train.py: error: --signs-reach: 2.5 is outside (0, 2]",
        "train.py: error: --slight-share: 1 is outside [0, 1)",
    ]
    idle = train("--signs-reach", "2")
    assert idle.returncode == 2
    assert "--signs-reach has no effect here: it needs --optimizer signs" in idle.stderr


@pytest.mark.slow
def test_a_new_plugin_is_built_with_its_options(extended: Path) -> None:
    result = python(extended, "-c", BUILDS_BOTH)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["1.5", "0.25"]
