"""torch.compile: the same training within rounding, and a run that goes on without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2.config.errors import Exit
from gpt2.optim import stochastic_rounding
from gpt2.training import compilation
from tests.support import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


MORE = (
    "--max-steps",
    "4",
    "--gradient-accumulation",
    "2",
    "--eval-interval",
    "2",
    "--save-every-best",
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
@pytest.mark.parametrize(("precision", "form"), [("fp32", "full"), ("fp16", "selective")])
def test_compiled_trains_as_eager_does(
    precision: str, form: str, data: Path, tmp_path: Path
) -> None:
    more = (*MORE, "--precision", precision, "--activation-checkpointing", form)
    assert tiny.train(data, tmp_path / "eager", *more) == Exit.OK
    assert tiny.train(data, tmp_path / "compiled", *more, "--compile") == Exit.OK
    torch._dynamo.reset()
    record = json.loads((tmp_path / "compiled" / "run.json").read_text())
    assert record["compiled"] is True, record["compile_failure"]
    assert record["determinism"] == "statistical"
    pairs = zip(tiny.metrics(tmp_path / "compiled"), tiny.metrics(tmp_path / "eager"), strict=True)
    for line, expected in pairs:
        assert line == pytest.approx(expected, rel=2e-2 if precision == "fp16" else 1e-4)
    names = {path.name for path in (tmp_path / "compiled" / "checkpoints").iterdir()}
    assert names == {"step-00000002", "step-00000004"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
def test_compiled_and_eager_go_on_with_each_others_checkpoints(data: Path, tmp_path: Path) -> None:
    """Checkpoints hold the bare model's names; only the way of computing differs."""
    more = (*MORE, "--checkpoint-interval", "1")
    assert tiny.train(data, tmp_path / "eager", *more) == Exit.OK
    run = tmp_path / "run"
    stopped = tiny.train_process(data, run, *more, "--compile", fault="checkpoint.rename:kill:2")
    assert stopped.returncode == -9
    assert tiny.train(data, run, *more, "--compile") == Exit.OK
    torch._dynamo.reset()
    for line, expected in zip(tiny.metrics(run), tiny.metrics(tmp_path / "eager"), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_without_a_compiler_the_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: torch.nn.Module, **_: object) -> None:
        def call(*_: object, **__: object) -> None:
            torch.rand(1)  # what a trial draws must not be felt
            raise RuntimeError("no C++ compiler was found\nand much more")

        self._compiled_call_impl = call

    more = (*MORE, "--dropout", "0.1")
    assert tiny.train(data, tmp_path / "eager", *more) == Exit.OK
    capsys.readouterr()
    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    assert tiny.train(data, tmp_path / "run", *more, "--compile") == Exit.OK
    warnings = [line for line in capsys.readouterr().err.splitlines() if "--compile" in line]
    assert len(warnings) == 1
    assert "no C++ compiler was found" in warnings[0]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["compiled"] is False
    assert record["compile_failure"] == "no C++ compiler was found"
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(tmp_path / "eager")


@pytest.mark.parametrize("broken", [False, True])
def test_moments_in_bf16_are_rounded_by_a_compiled_kernel(
    broken: bool,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To the same bits; where it cannot be compiled, the run continues without and says so."""
    more = ("--max-steps", "3", "--optimizer-state-precision", "bf16")
    assert tiny.train(data, tmp_path / "eager", *more) == Exit.OK
    calls = []

    def kernel(wide: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(wide.size(1))
        if broken:
            raise RuntimeError("no C++ compiler was found\nand much more")
        return stochastic_rounding.moments_by_formula(wide, start)

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    monkeypatch.setattr(stochastic_rounding, "_compiled", lambda: kernel)
    capsys.readouterr()
    assert tiny.train(data, tmp_path / "run", *more, "--compile") == Exit.OK
    assert len(calls) == (1 if broken else 10)  # a trial; three groups in each step
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["compiled"] is not broken
    assert ("no C++ compiler was found" in capsys.readouterr().err) is broken
    assert tiny.checkpoint_bytes(tmp_path / "run") == tiny.checkpoint_bytes(tmp_path / "eager")


def test_out_of_memory_is_no_compiler_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    part = torch.nn.Linear(1, 1)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)

    def trial() -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        compilation.compile_or_fall_back(part, trial)


def test_a_switch_of_torch_that_compiles_nothing_is_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch._dynamo.config, "disable", True)  # as the variable does it
    assert tiny.train(data, tmp_path / "run", "--max-steps", "1", "--compile") == Exit.OK
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["compiled"] is False
    assert "TORCH_COMPILE_DISABLE" in record["compile_failure"]
    shown = capsys.readouterr()
    assert "TORCH_COMPILE_DISABLE" in shown.err + shown.out
