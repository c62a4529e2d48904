"""The loop: what a step computes, what it logs, and that it never waits for the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2.config.errors import Exit, UserError
from gpt2.machine.ranks import DistributedContext
from gpt2.model.gpt import GPT
from gpt2.training import loop
from gpt2.training.loop import Parts, Progress
from tests.support import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    from gpt2.checkpoint.store import load_last

    found = load_last(run / "checkpoints", print)
    assert found is not None
    return dict(found.model)


@pytest.mark.slow
def test_accumulation_equals_the_big_batch(data: Path, tmp_path: Path) -> None:
    runs = []
    for batch, accumulation in (("8", "1"), ("4", "2"), ("1", "8")):
        run = tmp_path / batch
        more = ("--batch-size", batch, "--gradient-accumulation", accumulation)
        assert tiny.train(data, run, *more, "--max-steps", "5", "--optimizer", "sgd") == Exit.OK
        runs.append(run)
    for other in runs[1:]:
        for line, expected in zip(tiny.metrics(other), tiny.metrics(runs[0]), strict=True):
            assert line == pytest.approx(expected, rel=1e-6)
        for name, tensor in weights(other).items():
            torch.testing.assert_close(tensor, weights(runs[0])[name], rtol=1e-6, atol=1e-6)


def test_the_logged_rate_is_the_one_used(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    original = torch.optim.SGD.step

    def step(self: torch.optim.SGD, closure: Any = None) -> Any:
        used.append(self.param_groups[0]["lr"])
        return original(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    tiny.train(data, tmp_path / "run", "--optimizer", "sgd", "--max-steps", "8")
    logged = [line["learning_rate"] for line in tiny.metrics(tmp_path / "run") if "loss" in line]
    assert logged == used
    assert len(set(used)) > 4


def test_the_logged_loss_is_that_of_the_step(data: Path, tmp_path: Path) -> None:
    """A rate of 0 leaves the model as it was, so every step's loss can be computed again."""
    from gpt2.run_dir.resume import load_config
    from gpt2.training.assembly import build_parts, open_data

    tiny.train(data, tmp_path / "run", "--max-steps", "3", "--learning-rate", "0")
    config = load_config(tmp_path / "run")
    tokens = open_data(config)["train"]
    from gpt2.model.build import build_model

    device = torch.device("cpu")
    model = build_model(config.model, tokens.meta.vocab_size, device, config.train.seed)
    with build_parts(
        config, model, tokens, device, "fp32", DistributedContext()
    ).batches as batches:
        losses = [float(model(*batches.train(step, 0)).detach()) for step in range(3)]
    logged = [line["loss"] for line in tiny.metrics(tmp_path / "run") if "loss" in line]
    assert logged == pytest.approx(losses, rel=1e-6)


class NoReading(TorchDispatchMode):
    """Fails when a value is read from a tensor: on a GPU that waits for all work queued."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was read back"
        return func(*args, **(kwargs or {}))


class SilentRecorder:
    def after_step(self, step: loop.Step) -> bool:
        assert step.loss.ndim == 0
        return True


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_a_step_off_the_log_reads_nothing_back(
    optimizer: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2.session import session

    built: list[Parts] = []
    original = session.build_parts

    def keep(*arguments: Any) -> Parts:
        built.append(original(*arguments))
        return built[-1]

    monkeypatch.setattr(session, "build_parts", keep)
    more = ("--optimizer", optimizer, "--gradient-accumulation", "2", "--dropout", "0.1")
    more += ("--spike", "skip", "--nonfinite", "abort")  # decided on the device, too
    tiny.train(data, tmp_path / "run", "--max-steps", "1", *more)
    with NoReading():
        loop.train(built[0], Progress(steps=3, max_time=None, step=1), SilentRecorder())


def test_nonfinite_steps_are_skipped_counted_and_end_a_hopeless_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = GPT.forward

    def broken(self: GPT, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = original(self, ids, targets)
        return loss * torch.nan if self.training else loss

    monkeypatch.setattr(GPT, "forward", broken)
    with pytest.raises(UserError, match="diverged") as error:
        tiny.train(data, tmp_path / "run", "--max-steps", "50", "--checkpoint-interval", "5")
    assert error.value.code == Exit.DIVERGED
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", Exit.DIVERGED)
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())
    lines = tiny.metrics(tmp_path / "run")
    assert [line["skipped_steps"] for line in lines] == list(range(1, 11))
    assert all(line["loss"] is None for line in lines)


def test_clipping_against_the_formula() -> None:
    torch.manual_seed(0)
    for largest in (0.0, 0.5, 1e9):
        parameters = [torch.nn.Parameter(torch.randn(3, 4)) for _ in range(3)]
        gradients = [torch.randn(3, 4) for _ in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        norm = loop.gradient_norm(parameters)
        loop.clip(parameters, largest, norm)
        expected = sum(float((g.double() ** 2).sum()) for g in gradients) ** 0.5
        assert float(norm) == pytest.approx(expected, rel=1e-6)
        scale = min(1.0, largest / expected) if largest else 1.0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient * scale, rtol=1e-5, atol=1e-7)


def test_the_clock_follows_the_nearest_limit() -> None:
    progress = Progress(steps=10, max_time=100.0, step=5, elapsed=20.0)
    assert progress.fraction() == 0.5
    progress.elapsed = 80.0
    assert progress.fraction() == 0.8
    assert not progress.done()
    progress.step = 10
    assert progress.done()
    assert Progress(steps=None, max_time=10.0, elapsed=11.0).done()


@pytest.mark.slow
def test_a_run_that_time_ends(data: Path, tmp_path: Path) -> None:
    assert tiny.train(data, tmp_path / "run", "--max-time", "1") == Exit.OK
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["seconds"] >= 1.0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["determinism"] == "statistical"
