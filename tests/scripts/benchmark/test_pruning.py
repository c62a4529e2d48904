"""What the bench says of pruning: its numbers agree with each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gpt2.config.errors import UserError
from scripts import bench
from scripts.benchmark import contestants
from tests.scripts.test_bench import TINY

pytestmark = pytest.mark.slow
#: Prunable weights of TINY: two blocks of width 64.
PRUNABLE = 2 * 12 * 64**2


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_numbers_agree_with_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--pruning", "magnitude,movement", "--vocab-size", "256", "--steps", "1"]
    own += ["--repeats", "3", "--json", str(tmp_path / "all.json")]
    assert bench.main([*own, "--", *TINY, "--target-sparsity", "0.9"]) == 0
    report = json.loads((tmp_path / "all.json").read_text())
    assert list(report["times"]) == ["dense", "magnitude", "movement"]
    assert list(report["methods"]) == ["magnitude", "movement"]
    dense = sorted(report["times"]["dense"])
    assert report["dense_ms"]["median"] == dense[1]
    for name, row in report["methods"].items():
        ratios = [a / b - 1.0 for a, b in zip(*_pair(report, name), strict=True)]
        assert row["step"]["median"] == pytest.approx(sorted(ratios)[1])
        assert row["event_share"] == pytest.approx(row["ms"] / 100 / dense[1])
        assert row["all"] == pytest.approx(row["step"]["median"] + row["event_share"])
        assert row["prunable"] == PRUNABLE
        assert row["target"] == 0.9
        held = PRUNABLE // 8 + 17 + (4 * PRUNABLE if name == "movement" else 0)
        # A bit per weight, the place on the ramp, and that stacked matrices count one by one.
        assert row["held_bytes"] == held
    printed = capsys.readouterr().out
    assert "| magnitude | 90% |" in printed
    assert "| 0.125 |" in printed


def _pair(report: dict[str, dict[str, list[float]]], name: str) -> tuple[list[float], list[float]]:
    return report["times"][name], report["times"]["dense"]


def test_a_method_without_a_ramp_is_refused() -> None:
    with pytest.raises(UserError, match="only methods that prune along a ramp"):
        bench.main(["--pruning", "rigl", "--vocab-size", "256", "--", *TINY])
    with pytest.raises(UserError, match="did you mean magnitude"):
        bench.main(["--pruning", "magnitud", "--", *TINY])


def test_compile_is_honoured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(contestants, "compile_side", lambda side: compiled.append(side.name))
    own = ["--pruning", "magnitude", "--vocab-size", "256", "--steps", "1", "--repeats", "1"]
    for flags, sides in (([], 0), (["--compile"], 2)):
        compiled.clear()
        assert bench.main([*own, "--", *TINY, *flags]) == 0
        assert len(compiled) == sides
        assert (", not compiled; a dense step" in capsys.readouterr().out) == (not sides)
