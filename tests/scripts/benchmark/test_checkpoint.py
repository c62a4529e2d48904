"""The bench of saving on a tiny shape: its numbers agree. How fast anything is, no test says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gpt2.checkpoint import store
from gpt2.config.errors import UserError
from scripts import bench
from scripts.benchmark import checkpoint as bench_checkpoint
from tests.scripts.test_bench import PARAMETERS, TINY

pytestmark = pytest.mark.slow

OWN = ["--checkpoint", "2", "--repeats", "3", "--warmup", "1", "--vocab-size", "256"]


def test_every_turn_saves_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench_checkpoint, "RUNS", tmp_path / "runs")
    assert bench.main([*OWN, "--json", str(tmp_path / "all.json"), "--", *TINY]) == 0
    torch.set_num_threads(threads)
    report = json.loads((tmp_path / "all.json").read_text())
    (result,) = report["results"]
    assert (report["steps"], result["parameters"]) == (2, PARAMETERS)
    assert 12 * PARAMETERS < result["checkpoint_bytes"] < 12 * PARAMETERS + 60000
    times = result["ms_per_step"]
    assert list(times) == ["no save", "at once", "in the background"]
    for name, side in result["sides"].items():
        ratios = sorted(a / b for a, b in zip(times[name], times["no save"], strict=True))
        assert side["ratio"]["median"] == pytest.approx(ratios[1])
        assert side["stopped_seconds"] > 0.0
    assert "Mean step over 2 steps with one save" in capsys.readouterr().out
    assert not list((tmp_path / "runs").iterdir())


def test_a_save_that_fails_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench_checkpoint, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(store, "save", full)
    threads = torch.get_num_threads()
    with pytest.raises(UserError, match="a save failed"):
        bench.main([*OWN, "--", *TINY])
    torch.set_num_threads(threads)
