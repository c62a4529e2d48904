"""Several ranks over gloo: the same result as one, the same bits again, and one rank's trouble."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt2 import evaluate, export, sample
from gpt2.checkpoint.store import load_last
from gpt2.config.errors import Exit, UserError
from gpt2.machine import ranks
from gpt2.model.gpt import GPT
from gpt2.run_dir.resume import load_config
from tests.support import tiny, warm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"), characters=1000)


#: train.py, in which rank 1 meets TROUBLE: nan, spike, kill or term in the first micro-step of
#: these steps, or no memory for more than 2 sequences in training, or in evaluation.
TROUBLED = """
import os, signal, sys
import torch
sys.path.insert(0, os.getcwd())
from gpt2 import train
from gpt2.config.entry import run_entry
from gpt2.model.gpt import GPT

kind, *steps = os.environ["TROUBLE"].split()
compute = GPT.forward
calls = 0 if "fsdp" in sys.argv else -1  # else one micro-step is tried before the first step

def forward(self, ids, targets):
    global calls
    what = "training" if self.training else "evaluation"
    if os.environ["RANK"] == "1" and len(ids) > 2 and kind == what:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    loss = compute(self, ids, targets)
    if not self.training or os.environ["RANK"] != "1":
        return loss
    calls += 1
    if calls % 2 == 0 or str(1 + calls // 2) not in steps:  # of two micro-steps
        return loss
    if kind in ("kill", "term"):
        os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        return loss
    return loss * (20.0 if kind == "spike" else float("nan"))

GPT.forward = forward
run_entry("train.py", lambda: train.main(sys.argv[1:]))
"""


#: train.py, of which each rank says how many matrices Muon orthogonalises.
COUNTED = """
import os, sys
sys.path.insert(0, os.getcwd())
from gpt2 import train
from gpt2.config.entry import run_entry
from gpt2.optim.optimizers import muon

compute = muon.orthogonalised

def orthogonalised(batch, steps):
    print(f"rank {os.environ['RANK']} orthogonalises {len(batch)}", flush=True)
    return compute(batch, steps)

muon.orthogonalised = orthogonalised
run_entry("train.py", lambda: train.main(sys.argv[1:]))
"""


Train = Callable[..., "subprocess.CompletedProcess[str]"]


def train_ranks(
    data: Path, run: Path, *more: str, ranks: int = 2, fault: str = "", trouble: str = ""
) -> subprocess.CompletedProcess[str]:
    """Train with ranks that are joined as torchrun joins them, but start warm."""
    entry = Path("gpt2/train.py")
    if trouble:
        entry = run.with_name("troubled.py")
        entry.write_text(TROUBLED, encoding="utf-8")
    env = {**os.environ, "GPT2_FAULT": fault, "TROUBLE": trouble}
    return warm.run_ranks(ranks, [str(entry), *tiny.flags(data, run, *more)], env)


def torchrun(
    data: Path, run: Path, *more: str, fault: str = ""
) -> subprocess.CompletedProcess[str]:
    """Train with two ranks that torchrun starts."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "gpt2/train.py", *tiny.flags(data, run, *more)]
    return subprocess.run(
        command,
        cwd=tiny.REPOSITORY,
        env={**os.environ, "GPT2_FAULT": fault, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = load_last(run / "checkpoints", print)
    assert found is not None
    return dict(found.model)


def numbers(run: Path) -> list[dict[str, float]]:
    """Return a run's metrics with -1 for what is not finite, which is null there."""
    lines = tiny.metrics(run)
    return [{k: -1.0 if v is None else v for k, v in line.items()} for line in lines]


MORE = ("--max-steps", "9", "--eval-interval", "4", "--optimizer", "sgd")


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    done = train_ranks(data, run, *MORE, "--gradient-accumulation", "2")
    assert done.returncode == 0, done.stderr
    # The first rank speaks, and alone.
    assert done.stdout.count("run directory") == 2
    assert "2 ranks" in done.stdout
    return run


def test_two_ranks_equal_one(data: Path, two: Path, tmp_path: Path) -> None:
    assert tiny.train(data, tmp_path / "one", *MORE, "--gradient-accumulation", "4") == Exit.OK
    pairs = zip(numbers(two), numbers(tmp_path / "one"), strict=True)
    for line, expected in pairs:
        assert line == pytest.approx(expected, rel=1e-6)
    for name, tensor in weights(two).items():
        expected_tensor = weights(tmp_path / "one")[name]
        torch.testing.assert_close(tensor, expected_tensor, rtol=1e-6, atol=1e-6)


def test_two_ranks_again_give_the_same_bits(data: Path, two: Path, tmp_path: Path) -> None:
    """Started by torchrun, as users start them, where the others of this file are not."""
    assert torchrun(data, tmp_path / "run", *MORE, "--gradient-accumulation", "2").returncode == 0
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(two)
    assert tiny.checkpoint_bytes(tmp_path / "run") == tiny.checkpoint_bytes(two)


@pytest.mark.parametrize(
    ("ranks", "begin", "death"),
    [
        (1, torchrun, {"fault": "checkpoint.rename:kill:5"}),
        (4, train_ranks, {"trouble": "kill 5"}),
    ],
    ids=["the first rank, saving", "the other, in a step"],
)
def test_a_killed_run_goes_on_with_another_number_of_ranks(
    ranks: int, begin: Train, death: dict[str, str], data: Path, two: Path, tmp_path: Path
) -> None:
    more = (*MORE, "--gradient-accumulation", "2", "--checkpoint-interval", "1")
    # The rank that is left is ended, within this call's time limit.
    killed = begin(data, tmp_path / "run", *more, **death)
    assert killed.returncode != 0
    assert not (tmp_path / "run" / "summary.json").exists()
    resumed = train_ranks(data, tmp_path / "run", *more, ranks=ranks)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step 4" in resumed.stdout
    for name, tensor in weights(tmp_path / "run").items():
        torch.testing.assert_close(tensor, weights(two)[name], rtol=1e-6, atol=1e-6)
    wrong = train_ranks(data, tmp_path / "run", *more, ranks=ranks)
    assert "this run is finished" in wrong.stderr


def test_a_number_of_ranks_that_does_not_divide_the_batch(data: Path, tmp_path: Path) -> None:
    more = (*MORE, "--gradient-accumulation", "2", "--checkpoint-interval", "1")
    train_ranks(data, tmp_path / "run", *more, fault="checkpoint.rename:kill:3")
    before = tiny.checkpoint_bytes(tmp_path / "run")
    done = train_ranks(data, tmp_path / "run", *more, ranks=3)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("train.py: error:")]
    assert len(errors) == 1
    assert "the number of ranks must divide 16" in errors[0]
    assert tiny.checkpoint_bytes(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("told", "step"),
    [({"trouble": "term 3"}, 3), ({"fault": "checkpoint.rename:term:4"}, 5)],
    ids=["the other, in a step", "the first rank, saving"],
)
def test_a_signal_to_one_rank_stops_all_at_the_same_step(
    told: dict[str, str], step: int, data: Path, two: Path, tmp_path: Path
) -> None:
    """Row 35: both save once, and what goes on is the run that nobody stopped."""
    run, more = tmp_path / "run", (*MORE, "--gradient-accumulation", "2")
    stopped = train_ranks(data, run, *more, "--checkpoint-interval", "1", **told)
    assert stopped.returncode != 0
    assert stopped.stdout.count(f"after step {step}, checkpoint saved") == 1
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("preempted", Exit.PREEMPTED)
    assert max(run.glob("checkpoints/step-*")).name == f"step-{step:08d}"
    assert not list(run.glob("checkpoints/.tmp-*"))
    assert train_ranks(data, run, *more).returncode == 0
    assert tiny.metrics(run) == tiny.metrics(two)
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(two)


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_what_is_too_large_for_one_rank_is_lowered_on_all(
    where: str, data: Path, two: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = train_ranks(data, run, *MORE, "--gradient-accumulation", "2", trouble=where)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("continuing with") == 1
    record = json.loads((run / "run.json").read_text())
    (change,) = record["lowered"]
    assert (change["batch"], change["from"], change["to"]) == (where, 4, 2)
    training = load_config(run).train
    expected = (2, 4) if where == "training" else (4, 2)
    assert (training.batch_size, training.gradient_accumulation) == expected
    for line, expected_line in zip(numbers(run), numbers(two), strict=True):
        assert line == pytest.approx(expected_line, rel=1e-5)


@pytest.mark.parametrize("shard", ["none", "fsdp"])
def test_a_step_not_finite_on_one_rank_is_skipped_by_all(
    shard: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [2, *range(4, 14)]  # had one rank taken one of them, its weights would be NaN ever after
    more = ("--max-steps", "20", "--optimizer", "sgd", "--checkpoint-interval", "3")
    two = (*more, "--gradient-accumulation", "2", "--shard", shard)
    done = train_ranks(data, tmp_path / "run", *two, trouble=f"nan {' '.join(map(str, bad))}")
    assert done.returncode != 0
    assert done.stderr.count("train.py: error: diverged: the last 10 steps") == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", Exit.DIVERGED)
    # One rank sees the same sequences in the second of its four micro-steps.
    compute, calls = GPT.forward, itertools.count()

    def forward(self: GPT, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        step, micro = divmod(next(calls), 4)
        loss = compute(self, ids, targets)
        return loss * torch.nan if micro == 1 and step + 1 in bad else loss

    monkeypatch.setattr(GPT, "forward", forward)
    with pytest.raises(UserError, match="diverged"):
        tiny.train(data, tmp_path / "one", *more, "--gradient-accumulation", "4")
    lines, expected = numbers(tmp_path / "run"), numbers(tmp_path / "one")
    assert [line["skipped_steps"] for line in lines] == [0, 1, 1, *range(2, 12)]
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-6)
    for name, tensor in weights(tmp_path / "run").items():
        wanted = weights(tmp_path / "one")[name]
        torch.testing.assert_close(tensor, wanted, rtol=1e-6, atol=1e-6)


def test_a_spike_on_one_rank_takes_all_of_them_back(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They judge by the loss of all, and so do what one rank does that sees the same sequences."""
    more = ("--max-steps", "9", "--optimizer", "sgd", "--checkpoint-interval", "4")
    more += ("--spike", "rollback", "--spike-window", "8", "--spike-sigmas", "10")
    done = train_ranks(
        data, tmp_path / "run", *more, "--gradient-accumulation", "2", trouble="spike 6"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step 6 spiked") == 1
    compute, calls = GPT.forward, itertools.count()

    def forward(self: GPT, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = compute(self, ids, targets)
        return loss * 20.0 if self.training and next(calls) == 21 else loss

    monkeypatch.setattr(GPT, "forward", forward)
    one = (*more, "--gradient-accumulation", "4")
    assert tiny.train(data, tmp_path / "one", *one) == Exit.OK
    assert numbers(tmp_path / "run")[-1]["step"] == 9
    for line, other in zip(numbers(tmp_path / "run"), numbers(tmp_path / "one"), strict=True):
        assert line == pytest.approx(other, rel=1e-6)
    for name, tensor in weights(tmp_path / "run").items():
        wanted = weights(tmp_path / "one")[name]
        torch.testing.assert_close(tensor, wanted, rtol=1e-6, atol=1e-6)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rollbacks"] == 1


@pytest.mark.parametrize(("optimizer", "form"), [("sgd", "full"), ("adamw", "selective")])
def test_sharded_equals_one_and_goes_on_unsharded(
    optimizer: str, form: str, data: Path, tmp_path: Path
) -> None:
    """Also where the sharded run computes activations again, and one rank keeps them."""
    more = (*MORE, "--optimizer", optimizer, "--checkpoint-interval", "1", "--sample-tokens", "5")
    one = (*more, "--gradient-accumulation", "4")
    assert tiny.train(data, tmp_path / "one", *one) == Exit.OK
    sharded = (*more, "--gradient-accumulation", "2", "--shard", "fsdp")
    sharded += ("--activation-checkpointing", form)
    done = train_ranks(data, tmp_path / "whole", *sharded)
    assert done.returncode == 0, done.stderr
    # AdamW divides by roots of tiny numbers, which makes rounding visible.
    exact = 1e-6 if optimizer == "sgd" else 1e-4
    killed = train_ranks(data, tmp_path / "run", *sharded, fault="checkpoint.rename:kill:5")
    assert killed.returncode != 0
    goes_on = (*more, "--gradient-accumulation", "2")
    assert tiny.train(data, tmp_path / "run", *goes_on) == Exit.OK
    for run in (tmp_path / "whole", tmp_path / "run"):
        for name, tensor in weights(run).items():
            expected = weights(tmp_path / "one")[name]
            torch.testing.assert_close(tensor, expected, rtol=exact, atol=exact)
    pairs = zip(numbers(tmp_path / "whole"), numbers(tmp_path / "one"), strict=True)
    for line, wanted in pairs:
        assert line == pytest.approx(wanted, rel=exact)


def test_muon_divides_whole_matrices_among_the_ranks_when_sharded(
    data: Path, tmp_path: Path
) -> None:
    """Each orthogonalises half of the twelve of a step, to the result of one that does all."""
    more = ("--max-steps", "4", "--optimizer", "muon")
    assert tiny.train(data, tmp_path / "one", *more, "--gradient-accumulation", "2") == Exit.OK
    entry = tmp_path / "counted.py"
    entry.write_text(COUNTED, encoding="utf-8")
    flags = tiny.flags(data, tmp_path / "two", *more, "--shard", "fsdp")
    done = warm.run_ranks(2, [str(entry), *flags], dict(os.environ))
    assert done.returncode == 0, done.stderr
    said = re.findall(r"rank ([01]) orthogonalises (\d+)", done.stdout)
    work = [sum(int(count) for rank, count in said if rank == which) for which in "01"]
    assert work == [4 * 6, 4 * 6]
    one, two = (load_last(tmp_path / run / "checkpoints", print) for run in ("one", "two"))
    assert one is not None
    assert two is not None
    assert sum("momentum_buffer" in name for name in two.optim) == 8
    for found, expected in ((two.model, one.model), (two.optim, one.optim)):
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lion", "adamwspam"])
def test_the_form_for_a_gpu_can_be_sharded(name: str, data: Path, tmp_path: Path) -> None:
    """Resets, clipping and warm-ups of SPAM among the steps."""
    more = ["--max-steps", "9", "--optimizer", name]
    if name == "adamwspam":
        more += ["--adamwspam-interval", "4", "--adamwspam-grace", "2", "--adamwspam-warmup", "3"]
        more += ["--adamwspam-theta", "2"]
    entry = tmp_path / "on_device.py"
    entry.write_text(
        "import os, sys\n"
        "sys.path.insert(0, os.getcwd())\n"
        "from gpt2 import train\n"
        "from gpt2.config.entry import run_entry\n"
        f"from gpt2.optim.optimizers import {name}\n"
        f"{name}.on_gpu = lambda groups: True\n"
        'run_entry("train.py", lambda: train.main(sys.argv[1:]))\n',
        encoding="utf-8",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    assert tiny.train(data, one, *more, "--gradient-accumulation", "2") == Exit.OK
    flags = tiny.flags(data, two, *more, "--shard", "fsdp")
    done = warm.run_ranks(2, [str(entry), *flags], dict(os.environ))
    assert done.returncode == 0, done.stderr
    found, expected = (load_last(run / "checkpoints", print) for run in (two, one))
    assert found is not None
    assert expected is not None
    # There the count of steps is a tensor.
    assert ("group.0.spam_step" in found.optim) is (name == "adamwspam")
    for key, tensor in expected.model.items():
        torch.testing.assert_close(found.model[key], tensor, rtol=1e-4, atol=1e-5)


def test_a_sharded_run_resumes_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    """Also where threads write the checkpoints; movement has scores of its own in shards."""
    more = ("--max-steps", "9", "--checkpoint-interval", "3", "--shard", "fsdp", "--dropout", "0.1")
    more += ("--activation-checkpointing", "full", "--optimizer-state-precision", "bf16")
    more += ("--pruning-method", "movement", "--target-sparsity", "0.5", "--pruning-end", "0.8")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train_ranks(data, whole, *more, "--no-async-checkpoint").returncode == 0
    beside = (*more, "--async-checkpoint")
    assert train_ranks(data, run, *beside, fault="checkpoint.manifest:kill:2").returncode != 0
    resumed = train_ranks(data, run, *beside)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step 3" in resumed.stdout
    assert tiny.metrics(run) == tiny.metrics(whole)
    files = tiny.checkpoint_bytes(run)
    assert files == tiny.checkpoint_bytes(whole)
    assert len(files) == 4  # of two ranks, weights and state
    assert max(map(len, files.values())) < 0.6 * sum(map(len, files.values()))


def test_a_run_is_sharded_anew_at_every_resume(
    data: Path, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From one rank to four, killed while all of them write, to two; then its model is used."""
    more = (*MORE, "--gradient-accumulation", "4", "--checkpoint-interval", "1")
    sharded, run = (*more, "--shard", "fsdp"), tmp_path / "run"
    assert tiny.train_process(data, run, *more, fault="checkpoint.rename:kill:3").returncode == -9
    # Each rank writes weights, and nothing else: the plain SGD of MORE has no state.
    killed = train_ranks(data, run, *sharded, ranks=4, fault="checkpoint.tensor:kill:100")
    assert killed.returncode != 0
    assert "resuming after step 2" in killed.stdout
    (half,) = run.glob("checkpoints/.tmp-*")
    assert not (half / "MANIFEST.json").exists()
    last = max(run.glob("checkpoints/step-*"))
    assert json.loads((last / "MANIFEST.json").read_text())["ranks"] == 4
    resumed = train_ranks(data, run, *sharded)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming after step {int(last.name[5:])}" in resumed.stdout
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(two)[name], rtol=1e-6, atol=1e-6)
    capsys.readouterr()
    assert evaluate.main(["--run", str(run), "--device", "cpu"]) == Exit.OK
    assert sample.main(["--run", str(run), "--device", "cpu", "--tokens", "3"]) == Exit.OK
    assert export.main(["--run", str(run), "--out", str(tmp_path / "out")]) == Exit.OK
    loss = json.loads((run / "summary.json").read_text())["val_loss"]
    assert f"{loss:.6f}" in capsys.readouterr().out


def test_one_rank_cannot_shard() -> None:
    with pytest.raises(UserError, match="there is one: start several"):
        ranks.init_distributed("cpu", "fsdp")


def test_several_ranks_take_no_gpu_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match="--device cuda:1 names one GPU, and each of 2 ranks"):
        ranks.init_distributed("cuda", "none", 1)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun_sets = {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "3"}
    for name, value in torchrun_sets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="started 3 processes on this machine, which has 1 GPUs"):
        ranks.init_distributed("cuda", "none")
