"""adamwprune: bit for bit its base, whose options stay open, and whose defaults it takes."""

from __future__ import annotations

import pytest
import torch

from gpt2.config.bind import bind, own_values
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from tests.support.small import Small, bound, build, run

BASES = tuple(Options().members("ADAMWPRUNE_BASE"))
EVERY_BASE = pytest.mark.parametrize("base", BASES)


def test_its_bases() -> None:
    assert BASES == ("adamw", "adam", "adamwadv", "adamwspam")  # the default first
    assert bound("adamwprune").options.base == "adamw"


@EVERY_BASE
@pytest.mark.parametrize("changed", [False, True])
def test_it_is_its_base_to_the_bit(base: str, changed: bool) -> None:
    own = {f"{base.upper()}_BETA1": "0.7", f"{base.upper()}_EPS": "0.01"} if changed else {}
    if changed and base == "adamwspam":
        own |= {"ADAMWSPAM_INTERVAL": "8", "ADAMWSPAM_GRACE": "3", "ADAMWSPAM_WARMUP": "2"}
    model, other = Small(), Small()
    optimizer = build("adamwprune", model, ADAMWPRUNE_BASE=base, **own)
    reference = build(base, other, **own)
    found, expected = run(optimizer, model, 20), run(reference, other, 20)
    assert type(optimizer) is type(reference)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert optimizer.state[one].keys() == reference.state[two].keys()


@EVERY_BASE
def test_its_defaults_are_those_of_its_base(base: str) -> None:
    here, there = bound("adamwprune", ADAMWPRUNE_BASE=base), bound(base)
    assert here.options.base_options == there.options
    assert (here.learning_rate, here.weight_decay) == (there.learning_rate, there.weight_decay)


def test_the_options_of_another_base_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        bound("adamwprune", ADAMWPRUNE_BASE="adam", ADAMWSPAM_THETA="3", ADAMW_EPS="1")
    assert sorted(caught.value.messages) == [
        "--adamw-eps has no effect here: it needs --optimizer adamw or --adamwprune-base adamw",
        "--adamwspam-theta has no effect here: it needs --optimizer adamwspam or "
        "--adamwprune-base adamwspam",
    ]
    with pytest.raises(UserError, match="--adamwprune-base has no effect here"):
        bound("adamw", ADAMWPRUNE_BASE="adam")


def test_a_wrong_option_of_its_base_is_refused() -> None:
    with pytest.raises(UserError, match="--adam-eps: 0 is outside"):
        bound("adamwprune", ADAMWPRUNE_BASE="adam", ADAM_EPS="0")
    with pytest.raises(UserError, match="--adamwspam-grace 20 must be below"):
        bound("adamwprune", ADAMWPRUNE_BASE="adamwspam", ADAMWSPAM_INTERVAL="20")


def test_its_values_have_the_names_of_their_options() -> None:
    options = Options()
    options.give("OPTIMIZER", "adamwprune", "--optimizer")
    options.give("ADAMW_EPS", "0.5", "--adamw-eps")
    found = own_values("adamwprune", bind(options).optim.options)
    assert found == {
        "adamwprune_base": "adamw", "adamw_beta1": 0.9, "adamw_beta2": 0.95, "adamw_eps": 0.5,
        "optimizer_state_precision": "fp32",
    }  # fmt: skip
