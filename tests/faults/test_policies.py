"""Rows 14 to 19: steps that are not finite, and steps that spike.

Row 17, an infinite norm under clipping, is test_a_refused_step_changes_nothing of test_precision,
for every optimizer; row 35's NaN on one rank, and a spike on one, are in test_distributed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.data.batches import BatchOrder, TrainBatches
from gpt2.machine.watchdog import LONG, Watchdog
from gpt2.model.gpt import GPT
from gpt2.optim.step_guard import MAX_CONSECUTIVE_SKIPS, MAX_SKIPS, SpikeWindow, StepGuard
from gpt2.training.loop import Progress
from gpt2.training.recorder import RunRecorder
from gpt2.training.saver import Saver
from tests.support import tiny

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
FINE, NAN = torch.tensor(1.0), torch.tensor(math.nan)
SPIKES = ("--spike-window", "8", "--spike-sigmas", "30", "--dropout", "0.1")
COUNTERS = ("skipped_steps", "spiked_steps", "rollbacks")

Arm = Callable[[str], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"), characters=1500)


def diverges(data: Path, run: Path, *more: str) -> str:
    """Train until the run ends with code 5; return what is said, and check what is left."""
    with pytest.raises(UserError) as error:
        tiny.train(data, run, *more)
    assert error.value.code == Exit.DIVERGED
    assert not (run / "summary.json").exists()
    assert not list((run / "checkpoints").glob(".tmp-*"))
    for step in store.steps(run / "checkpoints"):
        found = store.load(store.folder_of(run / "checkpoints", step))
        for name, tensor in {**found.model, **found.optim}.items():
            assert torch.isfinite(tensor.float()).all(), (step, name)
    (message,) = error.value.messages
    return message


def interrupt(monkeypatch: pytest.MonkeyPatch, when: Callable[[Progress], bool]) -> None:
    """Let the process end after the step, with all it saves, at which `when` holds."""
    original = RunRecorder.after_step

    def after_step(self: RunRecorder, step: Any) -> bool:
        on = original(self, step)
        if when(self.progress):
            raise KeyboardInterrupt
        return on

    monkeypatch.setattr(RunRecorder, "after_step", after_step)


def files(run: Path, step: int) -> dict[str, bytes]:
    folder = store.folder_of(run / "checkpoints", step)
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def state(run: Path, step: int) -> dict[str, Any]:
    folder = store.folder_of(run / "checkpoints", step)
    found: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return found


def counted(run: Path, name: str) -> list[int]:
    return [line[name] for line in tiny.metrics(run) if "loss" in line]


@pytest.mark.parametrize("fault", ["step.grad:nan:3", "step.loss:nan:3", "step.grad:inf:3"])
def test_such_a_step_leaves_no_trace(fault: str, arm: Arm, data: Path, tmp_path: Path) -> None:
    """Row 14: weights and optimizer state are the same bits before and after."""
    arm(fault)
    run = tmp_path / "run"
    assert tiny.train(data, run, "--max-steps", "3", "--checkpoint-interval", "1") == Exit.OK
    assert files(run, 3) == files(run, 2)
    assert counted(run, "skipped_steps") == [0, 0, 1]
    assert json.loads((run / "summary.json").read_text())["skipped_steps"] == 1
    assert "1 step skipped: loss or gradient NaN or Inf" in (run / "log.txt").read_text()


def test_the_run_is_that_in_which_the_step_was_left_out(
    arm: Arm, data: Path, tmp_path: Path
) -> None:
    """Row 14: against a loop of torch alone, whose rates are those of the log."""
    from gpt2.model.build import build_model
    from gpt2.run_dir.resume import load_config
    from gpt2.training.assembly import open_data

    arm("step.grad:nan:3")
    run = tmp_path / "run"
    tiny.train(data, run, "--max-steps", "6", "--optimizer", "sgd", "--weight-decay", "0")
    config = load_config(run)
    tokens = open_data(config)["train"]
    model = build_model(config.model, tokens.meta.vocab_size, CPU, config.train.seed)
    options = {"momentum": config.optim.options.momentum, "foreach": False, "fused": False}
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1.0, nesterov=config.optim.options.nesterov, **options
    )
    order = BatchOrder(tiny.BLOCK, batch_size=4, gradient_accumulation=1, seed=config.train.seed)
    batches = TrainBatches(tokens, order, "cpu", num_workers=0)
    losses = []
    for index, line in enumerate(tiny.metrics(run)[:6]):
        loss = model(*batches.train(index, 0))
        losses.append(float(loss.detach()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip)
        optimizer.param_groups[0]["lr"] = line["learning_rate"]
        if index != 2:
            optimizer.step()
        optimizer.zero_grad()
    assert [line["loss"] for line in tiny.metrics(run)[:6]] == pytest.approx(losses, rel=1e-5)
    found = store.load_last(run / "checkpoints", print)
    assert found is not None
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found.model[name], parameter.detach(), rtol=1e-5, atol=1e-6)


def test_fp16_halves_its_scale_and_goes_on_as_if_never_stopped(
    arm: Arm, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 15: the schedule moves on with the step that was left out, as the data do."""
    more = ("--precision", "fp16", "--max-steps", "6", "--checkpoint-interval", "1")
    more += ("--nonfinite", "abort", "--dropout", "0.1")  # the scaler's search aborts nothing
    arm("step.grad:inf:5")
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    precision = state(tmp_path / "whole", 5)["precision"]
    assert (precision["scale"], precision["skipped"], precision["blamed"]) == (32768.0, 1, 0)
    assert files(tmp_path / "whole", 6) != files(tmp_path / "whole", 5)
    arm("step.grad:inf:5")
    with monkeypatch.context() as patch:
        interrupt(patch, lambda progress: progress.step == 5)
        with pytest.raises(KeyboardInterrupt):
            tiny.train(data, tmp_path / "run", *more)
    assert files(tmp_path / "run", 5) == files(tmp_path / "run", 4)
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    assert files(tmp_path / "run", 6) == files(tmp_path / "whole", 6)
    assert state(tmp_path / "run", 6)["precision"] == state(tmp_path / "whole", 6)["precision"]
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(tmp_path / "whole")
    arm("")
    assert tiny.train(data, tmp_path / "clean", *more) == Exit.OK
    runs = [tiny.metrics(tmp_path / name) for name in ("clean", "run")]
    rates = [[line.get("learning_rate") for line in run] for run in runs]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("interval", ["1", "100"])
def test_ten_in_a_row_end_the_run(interval: str, arm: Arm, data: Path, tmp_path: Path) -> None:
    """Row 16: whenever the host looks, what is on disk is finite, and says why."""
    arm("step.grad:nan:4+")
    more = ("--max-steps", "30", "--checkpoint-interval", "3", "--log-interval", interval)
    message = diverges(data, tmp_path / "run", *more)
    assert "the last 10 steps or more had no finite gradient" in message
    assert "no weight has changed since step 3; lower --learning-rate" in message
    newest = store.steps(tmp_path / "run" / "checkpoints")[-1]
    assert newest == 12
    assert files(tmp_path / "run", 12) == files(tmp_path / "run", 9)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_abort_ends_the_run_at_the_first(
    precision: str, arm: Arm, data: Path, tmp_path: Path
) -> None:
    """Row 16: the run ends at the next look; no weight has changed, nothing more was saved."""
    arm("step.loss:nan:3")
    run = tmp_path / "run"
    more = ("--max-steps", "20", "--precision", precision, "--nonfinite", "abort")
    message = diverges(data, run, *more, "--log-interval", "7", "--checkpoint-interval", "1")
    assert "a step had no finite loss and gradient, and --nonfinite abort ends the run" in message
    assert "no weight has changed since step 2;" in message
    assert store.steps(run / "checkpoints") == [1, 2]
    assert json.loads((run / "run.json").read_text())["exit_code"] == Exit.DIVERGED


def test_without_hope_no_further_step_is_made() -> None:
    """Row 16: ten in a row, or a hundred in all, however long nobody looks."""
    step_guard = StepGuard(CPU)
    for _ in range(MAX_CONSECUTIVE_SKIPS - 1):
        assert step_guard.check_step(FINE, NAN)
    assert not step_guard.check_step(FINE, FINE)
    assert step_guard.verdict(10) is None
    for _ in range(MAX_CONSECUTIVE_SKIPS):
        assert step_guard.check_step(FINE, NAN)
    assert step_guard.check_step(FINE, FINE)
    assert step_guard.verdict(21) is not None
    step_guard = StepGuard(CPU)
    for count in range(1, MAX_SKIPS["skip"] + 1):
        assert step_guard.verdict(2 * count) is None
        assert step_guard.check_step(NAN, FINE)
        assert bool(step_guard.check_step(FINE, FINE)) == (count == MAX_SKIPS["skip"])
    assert "100 steps in all had no finite loss" in str(step_guard.verdict(200))


def test_the_search_for_a_scale_is_not_blamed_on_the_run() -> None:
    """Row 15: an overflow counts where the loss is not finite, or the scale is 1 already."""
    step_guard = StepGuard(CPU, "abort")
    assert step_guard.check_step(FINE, NAN, torch.tensor(2.0))
    assert not step_guard.check_step(FINE, FINE, torch.tensor(1.0))
    assert (int(step_guard.skipped), int(step_guard.not_loss_scale_search)) == (1, 0)
    for loss, scale in ((NAN, 2.0), (FINE, 1.0)):
        step_guard = StepGuard(CPU, "abort")
        assert step_guard.check_step(loss, NAN, torch.tensor(scale))
        assert int(step_guard.not_loss_scale_search) == 1
        assert step_guard.verdict(1) is not None


@pytest.mark.parametrize("interval", ["1", "0"])
def test_weights_that_are_not_finite_are_never_saved(
    interval: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 16: an optimizer that overflows in its own step, seen at a save or at the last one."""
    original, calls = torch.optim.SGD.step, itertools.count(1)

    def step(self: torch.optim.SGD, closure: Any = None) -> Any:
        result = original(self, closure)
        if next(calls) == 3:
            self.param_groups[0]["params"][0].data.view(-1)[5] = math.inf
        return result

    run, more = tmp_path / "run", ("--optimizer", "sgd", "--max-steps", "3")
    more += ("--checkpoint-interval", interval)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        message = diverges(data, run, *more)
    assert "is not finite after step 3: no checkpoint is written of it" in message
    assert store.steps(run / "checkpoints") == ([1, 2] if interval == "1" else [])
    assert tiny.train(data, run, *more) == Exit.OK  # with an optimizer that does not


@pytest.mark.parametrize(("size", "sigmas"), [(4, 2.0), (7, 3.0), (16, 1.5)])
def test_spikes_are_those_of_a_slow_loop(size: int, sigmas: float) -> None:
    """Row 18: decisions of 200 steps with heavy tails, and of NaN, infinities and levels."""
    rng = np.random.default_rng(size)
    series = rng.standard_t(2, (200, 2)) + np.array([5.0, 1.0])
    series[100:] += 3.0
    series[[20, 90, 150], [0, 1, 0]] = (math.nan, math.inf, -math.inf)
    series = series.astype(np.float32)
    window, found = SpikeWindow(size, sigmas, CPU), []
    step_guard = StepGuard(CPU, window=window)
    for loss, norm in series:
        if int(step_guard.in_a_row) >= MAX_CONSECUTIVE_SKIPS - 1:
            step_guard.in_a_row.zero_()  # this is about spikes, not about hope
        step_guard.check_step(torch.tensor(loss), torch.tensor(norm))
        found.append(bool(step_guard.spike))
    made: list[tuple[float, float]] = []
    expected = []
    for values in series.astype(np.float64):
        last = np.array(made[-size:])
        spike = False
        if np.isfinite(values).all() and 2 * len(last) >= size:
            spike = bool((values > last.mean(0) + sigmas * last.std(0, ddof=1)).any())
        expected.append(spike)
        if np.isfinite(values).all() and not spike:
            made.append(tuple(values))
    assert found == expected
    assert sum(expected) > 5
    assert int(step_guard.spiked) == sum(expected)
    assert int(step_guard.skipped) == 3


def test_a_window_that_forgets_needs_half_of_it_again() -> None:
    window = SpikeWindow(4, 1.0, CPU)
    high, level = torch.tensor([9.0, 9.0]), torch.tensor([1.0, 1.0])
    for _ in range(4):
        window.add(level, torch.tensor(True))
    assert window.above(high)
    window.forget()
    for _ in range(2):
        assert not window.above(high)
        window.add(level, torch.tensor(True))
    assert window.above(high)
    assert not window.above(level)  # no deviation at all, and not above the mean


def test_pruning_makes_the_window_forget(data: Path, tmp_path: Path) -> None:
    """A loss that jumps because weights were taken away is no spike."""
    more = ("--spike", "skip", *SPIKES, "--max-steps", "8", "--checkpoint-interval", "1")
    pruned = ("--pruning-method", "magnitude", "--pruning-start", "0.9", "--pruning-end", "1")
    assert tiny.train(data, tmp_path / "run", *more, *pruned) == Exit.OK
    lengths = [len(state(tmp_path / "run", step)["precision"]["window"][0]) for step in (7, 8)]
    assert lengths == [7, 0]


def test_a_spike_is_left_out(arm: Arm, data: Path, tmp_path: Path) -> None:
    """Row 18, skip: the same bits before and after, and the run goes on."""
    run = tmp_path / "run"
    more = ("--spike", "skip", *SPIKES, "--max-steps", "7", "--checkpoint-interval", "1")
    arm("step.loss:x20:7")
    assert tiny.train(data, run, *more) == Exit.OK
    assert files(run, 7) == files(run, 6)
    assert counted(run, "spiked_steps") == [0] * 6 + [1]
    assert counted(run, "skipped_steps") == [0] * 7
    arm("step.loss:x20:6+")
    message = diverges(data, tmp_path / "lost", *more[:-4], "--max-steps", "30")
    assert "the last 10 steps or more had no finite gradient, or spiked" in message
    assert "or raise --warmup-steps, or --spike-sigmas" in message


def test_the_window_survives_a_resume(
    arm: Arm, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 19: stopped within the window, a run decides as one that was not."""
    more = ("--spike", "skip", *SPIKES, "--max-steps", "8", "--checkpoint-interval", "1")
    arm("step.loss:x20:6")
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    arm("step.loss:x20:6")
    with monkeypatch.context() as patch:
        interrupt(patch, lambda progress: progress.step == 4)
        with pytest.raises(KeyboardInterrupt):
            tiny.train(data, tmp_path / "run", *more)
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    assert counted(tmp_path / "run", "spiked_steps") == [0] * 5 + [1] * 3
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(tmp_path / "whole")
    assert files(tmp_path / "run", 8) == files(tmp_path / "whole", 8)
    assert state(tmp_path / "run", 8)["precision"] == state(tmp_path / "whole", 8)["precision"]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A corpus whose step's worth of data 5 makes the loss 20 times what it is; what was read."""
    read: list[int] = []
    original, compute = TrainBatches.train, GPT.forward

    def train(self: TrainBatches, step: int, micro: int) -> Any:
        read.append(step)
        return original(self, step, micro)

    def forward(self: GPT, ids: Any, targets: Any) -> Any:
        loss = compute(self, ids, targets)
        return loss * 20.0 if self.training and read[-1] == 5 else loss

    monkeypatch.setattr(TrainBatches, "train", train)
    monkeypatch.setattr(GPT, "forward", forward)
    return read


def shifted(monkeypatch: pytest.MonkeyPatch, start: int, shift: int) -> None:
    """Let every run leave out `shift` steps' worth of data before step `start`, from outside."""
    original = TrainBatches.train

    def train(self: TrainBatches, step: int, micro: int) -> Any:
        return original(self, step + shift if step >= start else step, micro)

    monkeypatch.setattr(TrainBatches, "train", train)


LENGTH = ("--max-steps", "9", "--warmup-steps", "3", "--dropout", "0.1")
BACK = ("--spike", "rollback", *SPIKES, *LENGTH)


@pytest.mark.parametrize(("interval", "start"), [("3", 3), ("0", 0)])
def test_a_rollback_is_a_run_without_those_data(
    interval: str, start: int, poisoned: list[int], data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Row 18, rollback: weights, state, dropout, rates, log: all from the checkpoint on is anew."""
    more = ("--checkpoint-interval", interval)
    assert tiny.train(data, tmp_path / "run", *BACK, *more) == Exit.OK
    assert poisoned == [*range(6), *range(6, 6 + 9 - start)]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [summary[name] for name in COUNTERS] == [0, 0, 1]
    assert (state(tmp_path / "run", 9)["left_out"], summary["steps"]) == (6 - start, 9)
    assert "1 rollback after spikes" in (tmp_path / "run" / "log.txt").read_text()
    shifted(monkeypatch, start, 6 - start)
    assert tiny.train(data, tmp_path / "other", *LENGTH, *more) == Exit.OK
    assert files(tmp_path / "run", 9) == files(tmp_path / "other", 9)
    lines, expected = (
        [{k: v for k, v in line.items() if k not in COUNTERS} for line in tiny.metrics(path)]
        for path in (tmp_path / "run", tmp_path / "other")
    )
    assert lines == expected


@pytest.mark.slow
@pytest.mark.parametrize("at", [5, 7])
def test_a_run_that_went_back_is_resumed(
    at: int, poisoned: list[int], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 18: with the shift, or, before there is a checkpoint that has it, by going back again."""
    more = (*BACK, "--checkpoint-interval", "3")
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    with monkeypatch.context() as patch:
        interrupt(patch, lambda progress: progress.rollbacks == 1 and progress.step == at)
        with pytest.raises(KeyboardInterrupt):
            tiny.train(data, tmp_path / "run", *more)
    poisoned.clear()
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    assert (5 in poisoned) == (at == 5)
    assert files(tmp_path / "run", 9) == files(tmp_path / "whole", 9)
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(tmp_path / "whole")


def test_rollbacks_come_to_an_end(arm: Arm, data: Path, tmp_path: Path) -> None:
    """Row 18: a spike after the last of them ends the run, at its last good checkpoint."""
    arm("step.loss:x20:6+")
    run, more = tmp_path / "run", ("--max-rollbacks", "2", "--checkpoint-interval", "5")
    message = diverges(data, run, *BACK, *more)
    assert "step 6 spiked, and all rollbacks are used up (2)" in message
    assert store.steps(run / "checkpoints") == [0, 5]
    assert [line["step"] for line in tiny.metrics(run)] == [1, 2, 3, 4, 5]
    arm("")
    assert tiny.train(data, run, *BACK, "--max-rollbacks", "9", *more[2:]) == Exit.OK


def test_what_is_being_written_is_no_hang(
    arm: Arm, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 34: a run that ends while the background writes may wait longer than for a step."""
    arm("step.grad:nan:4")
    close, seen = Saver.close, list[float]()

    def slowly(self: Saver) -> None:
        (dog,) = dogs
        seen.append(dog._now[1])
        close(self)

    dogs: list[Watchdog] = []
    begin = Watchdog.__enter__

    def entered(self: Watchdog) -> Watchdog:
        dogs.append(self)
        return begin(self)

    monkeypatch.setattr(Watchdog, "__enter__", entered)
    monkeypatch.setattr(Saver, "close", slowly)
    more = ("--nonfinite", "abort", "--async-checkpoint", "--checkpoint-interval", "1")
    diverges(data, tmp_path / "run", "--max-steps", "8", *more, "--hang-timeout", "60")
    assert seen == [LONG]


def test_without_a_fault_a_step_computes_nothing_more(arm: Arm, data: Path, tmp_path: Path) -> None:
    """The points of a step multiply nothing unless they act; then the loss or the gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.count += func.overloadpacket in (torch.ops.aten.mul, torch.ops.aten.mul_)
            return func(*args, **(kwargs or {}))

    counts = []
    for number, plan in enumerate(("", "data.write:eio", "step.loss:x2", "step.grad:x2")):
        arm(plan)
        with Counting() as counting:
            tiny.train(data, tmp_path / str(number), "--max-steps", "1", "--optimizer", "sgd")
        counts.append(counting.count)
    assert counts[0] == counts[1] < counts[2]
    assert counts[3] > counts[0]
