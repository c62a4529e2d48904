from __future__ import annotations

import pytest

from gpt2.machine.host_memory import Host
from scripts import bench
from scripts.benchmark import contestants

TINY = (
    "--model", "custom", "--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16",
    "--batch-size", "2", "--dataset", "text", "--tokenizer", "char", "--device", "cpu",
    "--num-threads", "1",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Host().watched, reason="memory is measured on Linux only")
def test_the_memory_taken_stands_beside_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--memory", "--", *TINY]) == 0
    *_, row = capsys.readouterr().out.splitlines()
    shape, *_, planned, allocated, taken, ratio = (
        cell.strip() for cell in row.strip("|").split("|")
    )
    assert shape == "custom 2 x 16"
    assert planned.endswith(" MB")
    assert taken == allocated  # on a CPU
    assert float(ratio) > 0.0


@pytest.mark.slow
@pytest.mark.skipif(not Host().watched, reason="memory is measured on Linux only")
def test_compile_is_honoured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[int] = []
    monkeypatch.setattr(
        contestants, "compile_side", lambda side: compiled.append(side.model.config.n_embd)
    )
    assert bench.main(["--memory", "--", *TINY, "--compile", "--n-embd", "32"]) == 0
    assert compiled == [32]  # and not the small one that comes first
    assert ", compiled | " in capsys.readouterr().out
