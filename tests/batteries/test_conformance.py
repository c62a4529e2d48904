"""The battery over every built-in optimizer, and a dozen of pytorch_optimizer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2.config import plugins
from gpt2.config.typed import PLUGIN_PACKAGES, QUALIFIED
from gpt2.optim.libraries.compatibility import COMPATIBLE, REFUSED
from gpt2.optim.libraries.lookup import classes, find
from gpt2.planning.optimizer_list import default_options
from tests.conftest import REPOSITORY
from tests.support import conformance
from tests.support.conformance import CHECKS, Subject

pytestmark = pytest.mark.slow

PACKAGE = PLUGIN_PACKAGES["OPTIMIZER"]
BUILT_IN = [name for name in plugins.names(PACKAGE) if name != QUALIFIED["OPTIMIZER"][0]]
#: Of different kinds: with factors, sets of moments, counters beside the state, their own rates.
DOZEN = [
    f"po:{name}"
    for name in (
        "adafactor", "ademamix", "adopt", "aggmo", "lion", "madgrad", "mars", "muon", "prodigy",
        "radam", "soap", "stablespam",
    )
]  # fmt: skip


def subject(name: str) -> Subject:
    """The optimizer `name` with its defaults."""
    if ":" in name:
        return Subject(lambda groups: find(name).build(groups, {}))
    options = default_options(name).options
    return Subject(lambda groups: plugins.load(PACKAGE, name).build(groups, options))


@pytest.mark.parametrize(
    "name", [*BUILT_IN, *(pytest.param(name, marks=pytest.mark.slow) for name in DOZEN)]
)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(name: str, check: Callable[[Subject, Path], None], tmp_path: Path) -> None:
    check(subject(name), tmp_path)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_decay_is_of_a_known_kind(name: str) -> None:
    kind = conformance.kind_of_decay(subject(name))
    assert kind == {"adam": "L2", "adamw": "decoupled", "sgd": "L2"}.get(name, kind)
    assert kind in ("decoupled", "L2")


@pytest.mark.parametrize("name", DOZEN)
def test_decay_is_what_the_table_says(name: str) -> None:
    assert table_agrees(name, conformance.kind_of_decay(subject(name)))


def table_agrees(name: str, measured: str) -> bool:
    """Whether the table says the measured kind. By its own, one may not decay without gradients."""
    wanted = find(name).entry.decay
    return measured == wanted or (wanted == "own" and measured == "none")


class Wrong(torch.optim.SGD):
    """Momentum, and one mistake."""

    def __init__(self, groups: list[dict[str, Any]], mistake: str) -> None:
        super().__init__(groups, momentum=0.9)
        self.mistake = mistake
        self.count = 0
        if mistake == "claims to refuse steps by itself":
            self.defaults["fused"] = True

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        self.count += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                self.spoil(group, parameter)
        super().step()

    def spoil(self, group: dict[str, Any], parameter: Tensor) -> None:
        if self.mistake == "climbs" and parameter.grad is not None:
            parameter.grad.neg_()
        elif self.mistake == "moves without a rate":
            parameter.mul_(0.999)
        elif self.mistake == "keeps its rate":
            group["lr"] = 0.01
        elif self.mistake == "overflows" and self.count > 3:
            parameter.fill_(torch.inf)
        elif self.mistake == "counts beside its state":
            group["lr"] /= self.count
        elif self.mistake == "decays vectors":
            parameter.mul_(1.0 - group["lr"] * 0.01 * (self.param_groups[0]["weight_decay"] > 0.0))
        elif self.mistake == "decays whatever the rate":
            parameter.mul_(1.0 - group["weight_decay"])
            group["weight_decay"] = 0.0

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        forgetful = self.mistake == "forgets its state"
        super().load_state_dict({**saved, "state": {}} if forgetful else saved)


def wrong(mistake: str) -> Subject:
    return Subject(lambda groups: Wrong(groups, mistake))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "check"),
    [
        ("climbs", conformance.descends),
        ("moves without a rate", conformance.a_rate_of_zero_trains_nothing),
        ("keeps its rate", conformance.the_schedule_changes_the_update),
        ("overflows", conformance.every_precision_stays_finite),
        ("claims to refuse steps by itself", conformance.a_refused_step_leaves_no_trace),
        ("forgets its state", conformance.state_survives_a_checkpoint),
        ("counts beside its state", conformance.resume_is_exact),
    ],
)
def test_a_mistake_is_found(
    mistake: str, check: Callable[[Subject, Path], None], tmp_path: Path
) -> None:
    check(wrong("none"), tmp_path / "right")
    with pytest.raises((AssertionError, KeyError)):
        check(wrong(mistake), tmp_path / "wrong")


def test_decay_of_other_kinds_is_found() -> None:
    assert conformance.kind_of_decay(wrong("none")) == "L2"
    assert conformance.kind_of_decay(wrong("decays whatever the rate")) == "own"
    with pytest.raises(AssertionError, match="is a vector"):
        conformance.kind_of_decay(wrong("decays vectors"))


def test_the_table_knows_every_name_of_the_library() -> None:
    known = COMPATIBLE["po"].keys() | REFUSED["po"].keys()
    assert known == classes("po").keys()
    assert not COMPATIBLE["po"].keys() & REFUSED["po"].keys()


def test_the_page_shows_the_table() -> None:
    page = (REPOSITORY / "docs" / "optimizers.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \|(.*)\|$", page, re.MULTILINE))
    shown = {prefix: set() for prefix in COMPATIBLE}
    for name in rows:
        prefix, _, short = name.partition(":")
        if short:
            shown[prefix].add(short)
    for prefix, admitted in COMPATIBLE.items():
        assert shown[prefix] == admitted.keys() | REFUSED[prefix].keys(), prefix
        for name, entry in admitted.items():
            assert entry.decay in rows[f"{prefix}:{name}"]
        for name, reason in REFUSED[prefix].items():
            assert reason in rows[f"{prefix}:{name}"]
