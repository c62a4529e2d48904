"""Running out of memory: one line, a smaller micro-batch, exit code 6."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gpt2.config.errors import Exit, UserError
from gpt2.machine.out_of_memory import release
from gpt2.model.gpt import GPT
from gpt2.session import session
from tests.support import tiny

CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.mark.parametrize("raised", [torch.OutOfMemoryError("CUDA out of memory"), CPU])
def test_it_names_the_way_out(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise raised

    monkeypatch.setattr(GPT, "forward", exhausted)
    data = tiny.make_data(tmp_path / "data")
    with pytest.raises(UserError, match="out of memory") as error:
        tiny.train(data, tmp_path / "run", "--max-steps", "1", "--batch-size", "1")
    assert error.value.code == Exit.MEMORY
    assert "--block-size" in str(error.value)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", Exit.MEMORY)


def test_a_model_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise CPU

    monkeypatch.setattr(session, "build_model", exhausted)
    data = tiny.make_data(tmp_path / "data")
    with pytest.raises(UserError, match="while custom is made: choose a smaller --model") as error:
        tiny.train(data, tmp_path / "run", "--max-steps", "1")
    assert error.value.code == Exit.MEMORY


@pytest.mark.slow
def test_the_way_out_is_the_same_run(tmp_path: Path) -> None:
    data = tiny.make_data(tmp_path / "data")
    runs = [tmp_path / "big", tmp_path / "small"]
    tiny.train(data, runs[0], "--max-steps", "3", "--optimizer", "sgd")
    smaller = ("--batch-size", "2", "--gradient-accumulation", "2")
    tiny.train(data, runs[1], "--max-steps", "3", "--optimizer", "sgd", *smaller)
    pairs = zip(tiny.metrics(runs[1]), tiny.metrics(runs[0]), strict=True)
    for line, expected in pairs:
        assert line == pytest.approx(expected, rel=1e-6)


def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(GPT, "forward", broken)
    data = tiny.make_data(tmp_path / "data")
    with pytest.raises(RuntimeError, match="a bug"):
        tiny.train(data, tmp_path / "run", "--max-steps", "1")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["exit_code"] == Exit.BUG


def test_the_peak_of_what_did_not_fit_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: called.append(name))
    release()
    assert called == ["empty_cache", "reset_peak_memory_stats"]
