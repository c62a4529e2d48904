"""A micro-batch that does not fit is lowered: the run is the one configured so from the start."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2.config.errors import Exit, UserError
from gpt2.machine.out_of_memory import is_exhaustion, smaller_batch
from gpt2.model.gpt import GPT
from gpt2.run_dir.resume import load_config
from gpt2.session import session
from gpt2.training.evaluation_batch import evaluation_batch
from tests.run_dir.test_resume import train_killed
from tests.support import tiny, warm

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the manual.")
CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
HARD = ("--dropout", "0.1", "--max-steps", "6", "--eval-interval", "3")
ONE = ("--batch-size", "1", "--gradient-accumulation", "4")
TWO = ("--batch-size", "2", "--gradient-accumulation", "2")

Limit = Callable[[int, bool, int], bool]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function after which the model runs out of memory where `fails` says so.

    It is told the sequences of a forward pass, whether it is one of training, and how many passes
    of so many sequences there have been.
    """
    original = GPT.forward

    def arm(fails: Limit, error: Exception = CUDA) -> None:
        passes: dict[int, int] = {}

        def forward(self: GPT, ids: Tensor, targets: Tensor) -> Tensor:
            size = len(ids)
            passes[size] = passes.get(size, 0) + 1
            if fails(size, self.training, passes[size]):
                raise type(error)(*error.args)  # one that is raised again keeps all its frames
            return original(self, ids, targets)

        monkeypatch.setattr(GPT, "forward", forward)

    return arm


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def batch(run: Path) -> tuple[int, int]:
    training = load_config(run).train
    return training.batch_size, training.gradient_accumulation


def assert_same(run: Path, other: Path) -> None:
    assert tiny.metrics(run) == tiny.metrics(other)
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(other)


def assert_close(run: Path, other: Path) -> None:
    for line, expected in zip(tiny.metrics(run), tiny.metrics(other), strict=True):
        assert line == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_checkpoint_of_no_step_has_computed_nothing(
    data: Path, tmp_path: Path, limit: Callable[..., None]
) -> None:
    """Row 20: with one for rollbacks, too, the run is that of the smaller micro-batch."""
    limit(lambda size, training, _: training and size > 1, MemoryError("none"))
    run = tmp_path / "run"
    assert tiny.train(data, run, *HARD, "--spike", "rollback") == Exit.OK
    assert (record(run)["moved"], record(run)["determinism"]) == ([], "bitwise")


@pytest.mark.slow
@pytest.mark.parametrize("error", [CUDA, CPU])
def test_the_first_step_lowers_the_micro_batch(
    error: Exception, data: Path, tmp_path: Path, limit: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert tiny.train(data, tmp_path / "direct", *HARD, *ONE) == Exit.OK
    # Only training is limited: evaluations of 4 are not, but follow the micro-batch.
    limit(lambda size, training, _: training and size > 1, error)
    run = tmp_path / "run"
    assert tiny.train(data, run, *HARD) == Exit.OK
    assert_same(run, tmp_path / "direct")
    assert batch(run) == (1, 4)
    found = record(run)
    assert [(c["batch"], c["from"], c["to"]) for c in found["lowered"]] == [
        ("training", 4, 2),
        ("training", 2, 1),
    ]
    assert "\n" not in found["lowered"][0]["error"]
    assert (found["micro_batch"], found["effective_batch"], found["resumes"]) == (1, 4, [])
    assert (found["status"], found["determinism"]) == ("finished", "bitwise")
    said = (
        "out of memory with --batch-size 4: continuing with --batch-size 2 "
        "--gradient-accumulation 2, the same samples in every step"
    )
    assert said in capsys.readouterr().err
    assert said in (run / "log.txt").read_text()


@pytest.mark.slow
def test_the_second_step_is_part_of_the_trial(
    data: Path, tmp_path: Path, limit: Callable[..., None]
) -> None:
    assert tiny.train(data, tmp_path / "direct", *HARD, *TWO) == Exit.OK
    limit(lambda size, training, passes: training and size == 4 and passes == 2)
    assert tiny.train(data, tmp_path / "run", *HARD) == Exit.OK
    assert_same(tmp_path / "run", tmp_path / "direct")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adamwspam"])
def test_pruned_runs_begin_anew_too(
    optimizer: str, data: Path, tmp_path: Path, limit: Callable[..., None]
) -> None:
    more = ("--optimizer", optimizer, "--pruning-method", "movement", *HARD)
    assert tiny.train(data, tmp_path / "direct", *more, *TWO) == Exit.OK
    limit(lambda size, training, passes: training and size == 4 and passes == 2)
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    assert_same(tmp_path / "run", tmp_path / "direct")


@pytest.mark.slow
def test_nothing_of_the_attempt_before_is_held(
    data: Path, tmp_path: Path, limit: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, held = session.build_model, []

    def build(*arguments: Any) -> GPT:
        held.append(sum(type(thing) is GPT for thing in gc.get_objects()))
        return original(*arguments)

    limit(lambda size, training, _: training and size > 1)
    monkeypatch.setattr(session, "build_model", build)
    gc.collect()
    assert tiny.train(data, tmp_path / "run", "--max-steps", "1") == Exit.OK
    assert held == [held[0]] * 3


@pytest.mark.slow
def test_a_resume_lowers_the_micro_batch_and_the_next_one_knows(
    data: Path, tmp_path: Path, limit: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "8", "--checkpoint-interval", "1")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert tiny.train(data, whole, *more) == Exit.OK
    train_killed(monkeypatch, 3, data, run, *more)
    limit(lambda size, training, _: training and size > 2)
    train_killed(monkeypatch, 5, data, run, *more)
    assert batch(run) == (2, 2)
    assert record(run)["determinism"] == "statistical"
    assert [line["step"] for line in tiny.metrics(run)] == [1, 2, 3, 4, 5]
    # What was too large is not tried again, though the command still says it.
    limit(lambda size, *_: pytest.fail("tried again") if size > 2 else False)
    assert tiny.train(data, run, *more) == Exit.OK
    assert len(record(run)["lowered"]) == 1
    assert len(record(run)["resumes"]) == 2
    assert_close(run, whole)


@pytest.mark.slow
def test_the_same_samples_in_other_portions_may_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "6", "--checkpoint-interval", "1")
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    train_killed(monkeypatch, 3, data, tmp_path / "run", *more)
    with pytest.raises(UserError, match="--batch-size is 2 but the run"):
        tiny.train(data, tmp_path / "run", *more, "--batch-size", "2")
    assert tiny.train(data, tmp_path / "run", *more, *TWO) == Exit.OK
    assert record(tmp_path / "run")["determinism"] == "statistical"
    assert batch(tmp_path / "run") == (2, 2)
    assert_close(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_later_it_ends_with_what_is_held_and_the_command_that_goes_on(
    data: Path, tmp_path: Path, limit: Callable[..., None]
) -> None:
    more = ("--max-steps", "6", "--checkpoint-interval", "2")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert tiny.train(data, whole, *more) == Exit.OK
    limit(lambda size, training, passes: training and size == 4 and passes >= 4)
    with pytest.raises(UserError, match="out of memory with --batch-size 4 after step 3") as error:
        tiny.train(data, run, *more)
    assert error.value.code == Exit.MEMORY
    said = str(error.value)
    assert "(parameters 0 MB, gradients 0 MB, optimizer state 0 MB, at the peak, on the " in said
    assert "--batch-size 2 --gradient-accumulation 2 is the same run in less memory" in said
    assert f"the same command with these and --run-dir {run} resumes" in said
    assert (record(run)["status"], record(run)["exit_code"]) == ("failed", Exit.MEMORY)
    assert tiny.train(data, run, *more, *TWO) == Exit.OK
    assert_close(run, whole)


@pytest.mark.slow
def test_it_ends_where_nothing_smaller_is_left(
    data: Path, tmp_path: Path, limit: Callable[..., None]
) -> None:
    limit(lambda size, training, _: training and size > 0)
    with pytest.raises(
        UserError, match=r"with --batch-size 1 after step 0 .*--block-size"
    ) as error:
        tiny.train(data, tmp_path / "run", "--max-steps", "2")
    assert error.value.code == Exit.MEMORY
    assert batch(tmp_path / "run") == (1, 4)


@pytest.mark.slow
def test_an_evaluation_lowers_its_own_batch_alone(
    data: Path, tmp_path: Path, limit: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    more = ("--max-steps", "6", "--eval-interval", "2", "--checkpoint-interval", "1")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert tiny.train(data, whole, *more) == Exit.OK
    limit(lambda size, training, _: not training and size > 1)
    train_killed(monkeypatch, 3, data, run, *more)
    assert "evaluating 4 sequences at a time: continuing with 2" in capsys.readouterr().err
    assert batch(run) == (4, 1)
    limit(lambda size, training, _: not training and size > 1 and pytest.fail("tried again"))
    assert tiny.train(data, run, *more) == Exit.OK
    assert [(c["batch"], c["from"], c["to"]) for c in record(run)["lowered"]] == [
        ("evaluation", 4, 2),
        ("evaluation", 2, 1),
    ]
    assert record(run)["micro_batch"] == 4
    assert_close(run, whole)


@pytest.mark.slow
def test_an_evaluation_that_never_fits(
    data: Path, tmp_path: Path, limit: Callable[..., None]
) -> None:
    limit(lambda _, training, __: not training)
    with pytest.raises(UserError, match="in an evaluation of one sequence at a time") as error:
        tiny.train(data, tmp_path / "run", "--max-steps", "1")
    assert error.value.code == Exit.MEMORY
    assert batch(tmp_path / "run") == (4, 1)


def test_of_old_runs_nothing_was_lowered() -> None:
    assert evaluation_batch(8, []) == 8
    assert (
        evaluation_batch(8, [{"batch": "training", "to": 1}, {"batch": "evaluation", "to": 4}]) == 4
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [(CUDA, True), (CPU, True), (MemoryError(), True), (RuntimeError("a bug"), False),
     (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
     (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
     (RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate`"), True),
     (OSError(12, "Cannot allocate memory"), False)],
)  # fmt: skip
def test_what_exhaustion_is(error: Exception, expected: bool) -> None:
    assert is_exhaustion(error) is expected


@pytest.mark.parametrize(
    ("size", "smaller"), [(1, None), (2, 1), (3, 1), (6, 3), (32, 16), (35, 7), (97, 1)]
)
def test_the_next_smaller_batch(size: int, smaller: int | None) -> None:
    assert smaller_batch(size) == smaller


#: train.py in a process that may hold 180 MB more than torch alone; 80 of them go for work space.
LIMITED = """
import resource, sys
from pathlib import Path
from gpt2 import train
from gpt2.session import session
from gpt2.config.entry import run_entry
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
most = int(status["VmData"].split()[0]) * 1024 + 180 * 10**6
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
run_entry("train.py", lambda: train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit private memory")
def test_a_real_limit(data: Path, tmp_path: Path) -> None:
    large = ("--n-embd", "64", "--block-size", "64", "--batch-size", "256", "--num-workers", "0")
    more = ("--max-steps", "2", "--optimizer", "adamw", *large)
    run, direct = tmp_path / "run", tmp_path / "direct"
    done = warm.run(["-c", LIMITED, *tiny.flags(data, run, *more)], dict(os.environ))
    assert done.returncode == Exit.OK, done.stderr
    size, accumulation = batch(run)
    assert size < 256
    assert "can't allocate memory" in record(run)["lowered"][0]["error"]
    smaller = ("--batch-size", str(size), "--gradient-accumulation", str(accumulation))
    assert tiny.train(data, direct, *more, *smaller) == Exit.OK
    assert_same(run, direct)
