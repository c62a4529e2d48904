"""The first phase of a session: what it finds out, and that nothing is changed by it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from gpt2.checkpoint.optimizer_state import random_state
from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import UserError
from gpt2.machine import device, host_memory
from gpt2.machine.ranks import DistributedContext
from gpt2.planning.remedies import MemoryBudget
from gpt2.session.check import Prepared, check
from gpt2.session.session import open_run
from gpt2.training.assembly import open_data
from tests.support import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


def checked(argv: list[str]) -> Prepared:
    options, actions = parse("train.py", "", argv, TrainActions)
    config = bind(options)
    return check(config, options, actions, argv, open_data(config), DistributedContext())


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_nothing_is_changed_before_the_run_directory_is_open(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what was asked for, nor files, nor this process; --auto-batch included."""

    def touched(*_: object) -> None:
        raise AssertionError("the process is changed")

    monkeypatch.setattr(MemoryBudget, "fits", lambda self, shape, roughly=False: shape.batch <= 3)
    monkeypatch.setattr(device, "prepare", touched)
    monkeypatch.setattr(device, "keep_freed_memory", touched)
    monkeypatch.setattr(host_memory.Host, "offer_to_the_oom_killer", touched)
    argv = tiny.flags(data, tmp_path / "run", "--batch-size", "2", "--gradient-accumulation", "3")
    argv += ["--num-threads", "1", "--auto-batch"]
    options, actions = parse("train.py", "", argv, TrainActions)
    config, asked = bind(options), options.full_text()
    opened = open_data(config)
    before = files(data), random_state(), torch.get_num_threads()
    prepared = check(config, options, actions, argv, opened, DistributedContext())
    assert (files(data), random_state(), torch.get_num_threads()) == before
    assert not (tmp_path / "run").exists()
    assert options.full_text() == asked
    assert (config.train.batch_size, prepared.config.train.batch_size) == (2, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        prepared.precision = "bf16"  # type: ignore[misc]


def test_what_is_refused_leaves_no_run_directory(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match="--init-from"):
        checked(tiny.flags(data, run, "--init-from", str(tmp_path / "nothing")))
    assert not run.exists()
    folder = open_run(checked(tiny.flags(data, run)))
    folder.close()
    assert run.is_dir()
