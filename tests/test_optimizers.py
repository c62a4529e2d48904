"""Every optimizer in the folder: a battery; then each against torch and against its paper."""

from __future__ import annotations

import inspect
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.errors import UserError
from gpt2.config.options import REPOSITORY, Options
from gpt2.config.typed import PLUGIN_PACKAGES, QUALIFIED
from gpt2.optim.groups import parameter_groups
from gpt2.optim.schedule import Schedule

PACKAGE = PLUGIN_PACKAGES["OPTIMIZER"]
#: Those of libraries have the battery of tests/conformance.py.
BUILT_IN = [name for name in plugins.names(PACKAGE) if name != QUALIFIED["OPTIMIZER"][0]]
EVERY_OPTIMIZER = pytest.mark.parametrize("name", BUILT_IN)
#: torch's own form of those that are torch's.
IN_TORCH = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def bound(name: str, **given: str) -> Any:
    """OptimConfig of optimizer `name`, with options by symbol. Raises UserError."""
    options = Options()
    options.give("MODEL", "custom", "--model")
    options.give("OPTIMIZER", name, "--optimizer")
    for symbol, value in given.items():
        options.give(symbol, value, "--" + symbol.lower().replace("_", "-"))
    return bind(options).optim


def build(
    name: str,
    model: nn.Module,
    rate: float | None = None,
    decay: float = 0.1,
    **given: str,
) -> torch.optim.Optimizer:
    optim = bound(name, **given)
    groups = parameter_groups(model, optim.learning_rate if rate is None else rate, decay)
    optimizer = plugins.load(PACKAGE, name).build(groups, optim.options)
    assert isinstance(optimizer, torch.optim.Optimizer)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


class Small(nn.Module):
    """Parameters of every role, and a fixed problem for them."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(16, 8)
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 16)
        self.ids = torch.arange(16)
        self.to(dtype)

    def loss(self) -> Tensor:
        """Cross-entropy of telling every id's successor."""
        logits = self.linear(self.norm(self.embedding(self.ids)))
        return nn.functional.cross_entropy(logits, self.ids.roll(1))

    def copies(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}

    def give_gradients(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = drawn.to(parameter.dtype)


@EVERY_OPTIMIZER
def test_descends_at_its_default_rate(name: str) -> None:
    model = Small()
    optimizer = build(name, model)
    losses = []
    for _ in range(150):
        loss = model.loss()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert losses[-1] < losses[75] < losses[0]


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
def test_every_module_says_what_it_is_and_builds(name: str) -> None:
    plugin = plugins.load(PACKAGE, name)
    assert plugin.__doc__
    assert list(inspect.signature(plugin.build).parameters) == ["groups", "options"]


def test_the_folder_and_the_menu_hold_the_same_names() -> None:
    assert plugins.names(PACKAGE) == sorted(Options().members("OPTIMIZER"))


# -- against torch -------------------------------------------------------------------------------


def variants() -> list[Any]:
    """Option sets under which each of torch's optimizers is compared."""
    chosen: dict[str, list[dict[str, str]]] = {
        "sgd": [
            {},
            {"SGD_MOMENTUM": "0"},
            {"SGD_MOMENTUM": "0.8", "SGD_NESTEROV": "y"},
        ],
        "adam": [{}, {"ADAM_BETA1": "0", "ADAM_BETA2": "0.5", "ADAM_EPS": "0.1"}],
        "adamw": [{}, {"ADAMW_BETA1": "0", "ADAMW_BETA2": "0.5", "ADAMW_EPS": "0.1"}],
    }
    return [
        pytest.param(name, given, id=f"{name}-{number}")
        for name, sets in chosen.items()
        for number, given in enumerate(sets)
    ]


def run(optimizer: torch.optim.Optimizer, model: Small, steps: int) -> dict[str, Tensor]:
    for seed in range(steps):
        model.give_gradients(seed)
        optimizer.step()
    return model.copies()


def torchs(name: str, given: dict[str, str], steps: int) -> dict[str, Tensor]:
    """Weights after torch's for-loop form, its arguments taken from the option texts."""
    model = Small()
    values = {key.split("_", 1)[1].lower(): text for key, text in given.items()}
    if name == "sgd":
        arguments: dict[str, Any] = {
            "momentum": float(values.get("momentum", "0.9")),
            "nesterov": values.get("nesterov", "n") == "y",
        }
    else:
        betas = (float(values.get("beta1", "0.9")), float(values.get("beta2", "0.95")))
        arguments = {"betas": betas, "eps": float(values.get("eps", "1e-8"))}
    groups = parameter_groups(model, 0.01, 0.1)
    return run(IN_TORCH[name](groups, foreach=False, fused=False, **arguments), model, steps)


@pytest.mark.parametrize(("name", "given"), variants())
def test_fused_is_torchs_loop_within_rounding(name: str, given: dict[str, str]) -> None:
    model = Small()
    optimizer = build(name, model, rate=0.01, **given)
    assert optimizer.defaults["fused"]
    found, expected = run(optimizer, model, 20), torchs(name, given, 20)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(("name", "given"), variants())
def test_not_fused_is_torchs_loop_to_the_bit(
    name: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins.load(PACKAGE, name), "fused_where_possible", lambda _: False)
    model = Small()
    optimizer = build(name, model, rate=0.01, **given)
    assert not optimizer.defaults["fused"]
    found, expected = run(optimizer, model, 20), torchs(name, given, 20)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


# -- against the papers --------------------------------------------------------------------------

RATE, DECAY = 0.02, 0.3


def adam(
    w: float,
    gradients: list[float],
    decay: float,
    decoupled: bool,
    b1: float,
    b2: float,
    eps: float,
) -> float:
    """Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2."""
    m = v = 0.0
    for t, gradient in enumerate(gradients, 1):
        g = gradient if decoupled else gradient + decay * w
        m = b1 * m + (1.0 - b1) * g
        v = b2 * v + (1.0 - b2) * g * g
        step = (m / (1.0 - b1**t)) / (math.sqrt(v / (1.0 - b2**t)) + eps)
        w = w - RATE * (step + (decay * w if decoupled else 0.0))
    return w


def sgd(w: float, gradients: list[float], decay: float, momentum: float, nesterov: bool) -> float:
    """Sutskever et al. 2013, (1)-(4), with the rate outside the velocity as in torch."""
    velocity = 0.0
    for gradient in gradients:
        g = gradient + decay * w
        velocity = momentum * velocity + g
        w -= RATE * (g + momentum * velocity if nesterov else velocity)
    return w


@pytest.mark.parametrize(
    ("name", "given", "formula"),
    [
        (
            "adam",
            {"ADAM_BETA1": "0.8", "ADAM_BETA2": "0.9", "ADAM_EPS": "0.01"},
            lambda w, g, decay: adam(w, g, decay, False, 0.8, 0.9, 0.01),
        ),
        (
            "adamw",
            {"ADAMW_BETA1": "0.8", "ADAMW_BETA2": "0.9", "ADAMW_EPS": "0.01"},
            lambda w, g, decay: adam(w, g, decay, True, 0.8, 0.9, 0.01),
        ),
        ("sgd", {"SGD_MOMENTUM": "0.7"}, lambda w, g, decay: sgd(w, g, decay, 0.7, False)),
        ("sgd", {"SGD_MOMENTUM": "0"}, lambda w, g, decay: sgd(w, g, decay, 0.0, False)),
        (
            "sgd",
            {"SGD_MOMENTUM": "0.7", "SGD_NESTEROV": "y"},
            lambda w, g, decay: sgd(w, g, decay, 0.7, True),
        ),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_papers_formula_number_by_number(
    name: str, given: dict[str, str], formula: Any, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins.load(PACKAGE, name), "fused_where_possible", lambda _: fused)
    model = Small(torch.float64)
    start = model.copies()
    gradients: list[dict[str, Tensor]] = []
    for seed in range(6):
        model.give_gradients(seed)
        gradients.append(
            {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        )
    found = run(build(name, model, rate=RATE, decay=DECAY, **given), model, 6)
    for key, after in found.items():
        decay = DECAY if after.ndim >= 2 else 0.0
        for place in range(0, after.numel(), 5):
            own = [float(step[key].flatten()[place]) for step in gradients]
            wanted = formula(float(start[key].flatten()[place]), own, decay)
            assert float(after.flatten()[place]) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


# -- their options -------------------------------------------------------------------------------


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
    with pytest.raises(UserError, match="no effect here: it needs OPTIMIZER_SGD"):
        bound("adamw", SGD_MOMENTUM="0.5")


# -- adding a plug-in ----------------------------------------------------------------------------

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
from typing import Annotated, Any

from torch import nn

from gpt2.config.typed import Within
from gpt2.prune.methods.none import Dense
from gpt2.prune.pruner import Pruner


@dataclass(frozen=True)
class Options:
    share: Annotated[float, Within("[0, 1)")]


class Slight(Dense):
    share = 0.0


def build(model: nn.Module, options: Options) -> Pruner:
    pruner = Slight()
    pruner.share = options.share
    return pruner
'''
BUILDS_BOTH = """
from torch import nn
from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.typed import PLUGIN_PACKAGES, TrainActions
from gpt2.optim.groups import parameter_groups
argv = ["--optimizer", "signs", "--signs-reach", "1.5", "--pruning-method", "slight"]
config = bind(parse("train.py", "", argv, TrainActions)[0])
model = nn.Linear(2, 2)
groups = parameter_groups(model, 0.1, 0.0)
optimizer = plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], config.optim.optimizer)
method = plugins.load(PLUGIN_PACKAGES["PRUNING_METHOD"], config.prune.pruning_method)
print(optimizer.build(groups, config.optim.options).reach)
print(method.build(model, config.prune.options).share)
"""


def add_entry(kconfig: Path, choice: str, name: str, option: str, default: str) -> None:
    """Write a plug-in's Kconfig entry: a member of its choice, and its one option."""
    text = kconfig.read_text(encoding="utf-8")
    head, tail = text.split("endchoice\n", 1)
    member = f'config {choice}_{name}\n\tbool "{name}"\n\n'
    own = (
        f'\nconfig {name}_{option}\n\tstring "{name}: its {option}"\n'
        f'\tdepends on {choice}_{name}\n\tdefault "{default}"\n'
    )
    kconfig.write_text(f"{head}{member}endchoice\n{own}{tail}", encoding="utf-8")


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
    (root / "gpt2/optim/optimizers/signs.py").write_text(OPTIMIZER_FILE, encoding="utf-8")
    (root / "gpt2/prune/methods/slight.py").write_text(METHOD_FILE, encoding="utf-8")
    add_entry(root / "gpt2/optim/Kconfig", "OPTIMIZER", "SIGNS", "REACH", "1.0")
    add_entry(root / "gpt2/prune/Kconfig", "PRUNING_METHOD", "SLIGHT", "SHARE", "0.25")
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
    result = train("--help")
    assert result.returncode == 0, result.stderr
    assert ",signs}" in result.stdout
    assert "{none,slight}" in result.stdout
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
    assert "--signs-reach has no effect here: it needs OPTIMIZER_SIGNS" in idle.stderr


@pytest.mark.slow
def test_a_new_plugin_is_built_with_its_options(extended: Path) -> None:
    result = python(extended, "-c", BUILDS_BOTH)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["1.5", "0.25"]
