"""A run resumes at the rate, chunk and pattern that it began with, where the command has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.config.bind import bind
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.run_dir.version_1_defaults import take_from_run


def library(rate: str = "") -> Options:
    """Options of an optimizer of a library, at `rate` if there is one."""
    options = Options()
    options.give("OPTIMIZER", "po:lion", "--optimizer")
    if rate:
        options.give("LEARNING_RATE", rate, "--learning-rate")
    return options


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run at 4e-3."""
    (tmp_path / "config").write_text(library("4e-3").full_text())
    return tmp_path


def test_the_rate_of_the_run_is_taken(run: Path) -> None:
    options = library()
    take_from_run(options, run)
    assert bind(options).optim.learning_rate == 4e-3


def test_a_rate_that_is_given_or_a_default_stays(run: Path) -> None:
    """Whether they may differ from the run's is for the resume to say."""
    given, built_in = library("1e-3"), Options()
    for options in (given, built_in):
        take_from_run(options, run)
    assert bind(given).optim.learning_rate == 1e-3
    assert bind(built_in).optim.learning_rate == bind(Options()).optim.learning_rate


@pytest.mark.parametrize("asked", [None, "128"])
def test_the_chunk_of_the_run_is_taken_unless_one_is_given(
    asked: str | None, tmp_path: Path
) -> None:
    began = Options()
    began.give("LOSS_CHUNK_MIB", "64", "--loss-chunk-mib")  # version 1's default
    (tmp_path / "config").write_text(began.full_text())
    options = Options()
    if asked:
        options.give("LOSS_CHUNK_MIB", asked, "--loss-chunk-mib")
    take_from_run(options, tmp_path)
    assert bind(options).model.loss_chunk_mib == int(asked or 64)


@pytest.mark.parametrize("where", ["nowhere", "new", "none"])
def test_a_new_run_needs_one(where: str, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    options = library()
    take_from_run(options, None if where == "none" else tmp_path / where)
    with pytest.raises(UserError, match="--learning-rate is needed"):
        bind(options)


def pruned(pattern: str = "", method: str = "movement") -> Options:
    """Options of a pruning method, in `pattern` if there is one."""
    options = Options()
    options.give("PRUNING_METHOD", method, "--pruning-method")
    if pattern:
        options.give("SPARSITY_PATTERN", pattern, "--sparsity-pattern")
    return options


def test_the_pattern_of_the_run_is_taken_unless_one_is_given(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(pruned("global").full_text())
    found = []
    for options in (pruned(), pruned("layer"), pruned("erk"), Options()):
        take_from_run(options, tmp_path)
        prune = bind(options).prune
        found.append(prune and prune.sparsity_pattern)
    assert found == ["global", "layer", "erk", None]
    for options, run in ((pruned(), tmp_path / "new"), (pruned(method="magnitude"), tmp_path)):
        take_from_run(options, run)
        assert options.value("SPARSITY_PATTERN") == "layer"


def of_lion(decay: str = "") -> Options:
    """Options of Lion for GPT-2, with a decay if there is one."""
    options = Options()
    options.give("OPTIMIZER", "lion", "--optimizer")
    if decay:
        options.give("WEIGHT_DECAY", decay, "--weight-decay")
    return options


@pytest.mark.parametrize(
    ("began", "given", "found"),
    [
        ("0.1", "", 0.1),  # by the default of version 1
        ("0.1", "0.3", 0.3),  # the resume refuses it
        ("0.5", "", 0.6),  # was given then, and is lacking now: refused, too
        ("", "", 0.6),
    ],
)
def test_a_default_that_has_changed_is_that_of_the_run(
    began: str, given: str, found: float, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(of_lion(began).full_text())
    options = of_lion(given)
    take_from_run(options, tmp_path)
    assert bind(options).optim.weight_decay == found
    fresh = of_lion()
    take_from_run(fresh, None)
    assert bind(fresh).optim.weight_decay == 0.6
