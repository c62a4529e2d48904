"""Zeros between events: masked gradients alone keep them, under optimizers that say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.config import plugins
from gpt2.config.typed import PLUGIN_PACKAGES
from gpt2.prune.masks import Masks
from tests.support import tiny

STATED = [
    name
    for name in plugins.names(PLUGIN_PACKAGES["OPTIMIZER"])
    if hasattr(plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], name), "KEEPS_ZEROS")
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["magnitude", "rigl"])
@pytest.mark.parametrize("optimizer", [*STATED, "adamw --optimizer-state-precision bf16"])
def test_the_bits_are_those_of_clearing_after_every_step(
    optimizer: str, method: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = [0]
    apply = Masks.apply

    def counted(masks: Masks, *arguments: object) -> None:
        cleared[0] += 1
        apply(masks, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Masks, "apply", counted)
    more = ["--optimizer", *optimizer.split(), "--pruning-method", method, "--max-steps", "12"]
    more += ["--target-sparsity", "0.6", "--pruning-interval", "4", "--dropout", "0.1"]
    plugin = plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], optimizer.split(maxsplit=1)[0])
    assert tiny.train(data, tmp_path / "few", *more) == 0
    few, cleared[0] = cleared[0], 0
    monkeypatch.delattr(plugin, "KEEPS_ZEROS")
    assert tiny.train(data, tmp_path / "all", *more) == 0
    assert few < cleared[0]
    assert cleared[0] >= 12
    assert tiny.checkpoint_bytes(tmp_path / "few") == tiny.checkpoint_bytes(tmp_path / "all")
    assert tiny.metrics(tmp_path / "few") == tiny.metrics(tmp_path / "all")


def test_who_says_so() -> None:
    assert sorted(STATED) == ["adam", "adamw", "adamwadv", "lion", "sgd"]
