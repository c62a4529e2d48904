"""Part right of check-gpu: the same numbers as on a CPU, the same bits after a kill, no waits."""

from __future__ import annotations

import filecmp
import json
import os
import shlex
import time
from pathlib import Path

from tests.cuda.steps import DEVICE, DRY, SHORT, Check, FailureError, data_flags, has_modules

_TOO_LARGE = """
import sys, torch
torch.cuda.set_per_process_memory_fraction(0.06)
from gpt2.train import main
sys.exit(main(sys.argv[1:]))
"""


def right(check: Check) -> None:
    """Is it right?"""
    check.step("doctor", 20, lambda: check.run("scripts/doctor.py").strip().splitlines()[0])
    check.step("checks in one process", 60, lambda: _checks(check))
    for way in ("", "--compile"):
        if not (DRY and way):  # a CPU compiles for minutes
            name = "compiled" if way else "eager"
            what = f"kill -9 and resume, --deterministic, {name}: the same bits"
            check.step(what, 60, lambda way=way: _killed(check, way))
    for shard in ("none", "fsdp"):
        what = f"two ranks on one device over gloo, --shard {shard}: losses of one rank"
        check.step(what, 40, lambda shard=shard: _ranks(check, shard))
    if not DRY:
        what = "too large a micro-batch is halved, its peak forgotten"
        check.step(what, 40, lambda: _halved(check))
        if has_modules("pytest", "xdist"):
            command = ["-m", "pytest", "-q", "-n", "0", "-m", "cuda", "tests"]
            what = "tests marked cuda"
            check.step(what, 60, lambda: check.run(*command).strip().splitlines()[-1])
        else:
            check.add("tests marked cuda", "left out", "pytest or pytest-xdist is not there")
    check.step("the main job to its end", 60, lambda: _main_job(check))


def _checks(check: Check) -> str:
    """Run checks.py, and give each of its results a row of its own."""
    os.environ["OUT"] = str(check.out)
    path = check.out / "checks.json"
    path.unlink(missing_ok=True)
    problem = ""
    try:
        check.run("tests/cuda/checks.py", *(["cpu"] if DRY else []))
    except FailureError as error:
        problem = str(error)
    found = json.loads(path.read_text()) if path.exists() else {}
    for name, value in found.items():
        bad = str(value).startswith("FAILED")
        check.add(name, "FAILED" if bad else "ok", str(value)[:120])
    if problem:
        raise FailureError(problem)
    return f"{len(found)} checks"


def _killed(check: Check, way: str) -> str:
    flags = [*shlex.split(SHORT), *shlex.split(
        "--dropout 0.1 --checkpoint-interval 10 --eval-interval 0 --sample-tokens 0 --deterministic"
    ), *way.split()]  # fmt: skip
    whole, killed = f"whole{way}", f"killed{way}"
    check.train(whole, *flags)
    check.train(killed, *flags, fault="checkpoint.rename:kill:2", code=-9)
    check.train(killed, *flags)
    for name in ("model", "optim"):
        last = f"checkpoints/step-00000030/{name}.safetensors"
        if not filecmp.cmp(check.runs / whole / last, check.runs / killed / last, shallow=False):
            raise FailureError(f"{name}.safetensors differs")
    record, _ = check.results(killed)
    if way and not record["compiled"]:
        raise FailureError(f"not compiled: {record['compile_failure']}")
    return "weights and optimizer state"


def _ranks(check: Check, shard: str) -> str:
    """Train with two ranks, and with one of twice the micro-batch; return the worst difference."""
    common = f"{SHORT} --dropout 0 --precision fp32 --log-interval 1 --eval-interval 0".split()
    common += shlex.split("--sample-tokens 0 --checkpoint-interval 0 --max-steps 6 --seed 3")
    words = [*data_flags(), *shlex.split(DEVICE), *common, "--batch-size", "2"]
    start = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    start += ["--nproc-per-node", "2", "tests/cuda/two_ranks.py"]
    check.run(*start, *words, "--shard", shard, "--run-dir", str(check.runs / f"two-{shard}"))
    if not (check.runs / "one").exists():
        check.train("one", *common, "--batch-size", "4")
    two, one = (_losses(check.runs / name) for name in (f"two-{shard}", "one"))
    worst = max(abs(a - b) / b for a, b in zip(two, one, strict=True))
    if worst > 1e-3:
        raise FailureError(f"losses differ by up to {worst:.1e} of themselves")
    return f"{len(two)} steps, at most {worst:.1e} apart"


def _losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def _halved(check: Check) -> str:
    flags = shlex.split("--batch-size 256 --max-steps 6 --ignore-plan --sample-tokens 0")
    flags += shlex.split(DEVICE)
    run = ["--run-dir", str(check.runs / "memory")]
    check.run("-c", _TOO_LARGE, *data_flags(), *flags, *run, most=90.0)
    record, summary = check.results("memory")
    if not record["lowered"]:
        raise FailureError("it fitted at once")
    size = record["lowered"][-1]["to"]
    return f"to {size}; {summary['peak_process_bytes'] / 1e9:.1f} GB at the peak"


def _main_job(check: Check) -> str:
    flags = "--batch-size 64 --num-epochs 15 --eval-interval 25 --checkpoint-interval 100"
    flags += " --async-checkpoint --compile"
    if DRY:
        flags = f"{SHORT} --eval-interval 10 --async-checkpoint"
    start = time.monotonic()
    check.train("main", *flags.split(), most=240.0)
    record, summary = check.results("main")
    size = sum(path.stat().st_size for path in (check.runs / "main").rglob("*") if path.is_file())
    mfu = "unknown" if summary["mfu"] is None else f"{summary['mfu']:.3f}"
    return (
        f"validation loss {summary['val_loss']:.4f}, {summary['tokens_per_second']:,.0f} tokens/s, "
        f"MFU {mfu}, training {summary['seconds']:.0f} s of {time.monotonic() - start:.0f} s, "
        f"{summary['peak_process_bytes'] / 1e9:.1f} GB of the device, {size / 1e9:.1f} GB of disk, "
        f"{record['attention']}, {'compiled' if record['compiled'] else 'not compiled'}"
    )
