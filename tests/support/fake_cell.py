"""Stands for train.py in tests of the matrix: a run directory in milliseconds, without torch.

What it computes is a chain of hashes over seed, flags and steps, so that a step that is lost or
done twice shows in the result. $FAKE_FAULTS names a JSON file {cell: [what befalls each attempt]}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError
from gpt2.run_dir.folder import RunFolder, write_whole

STEPS = 30
#: Seconds that a step takes.
PAUSE = float(os.environ.get("FAKE_PAUSE", "0.004"))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--gradient-accumulation", type=int, default=1)
    parser.add_argument("--checkpoint-interval", type=int, default=10)
    parser.add_argument("--num-threads")
    parser.add_argument("--plan-json", action="store_true")
    parser.add_argument("--measure-precision", action="store_true")
    asked, flags = parser.parse_known_args()
    if asked.measure_precision:
        print("auto takes fp32 on this CPU: this is no real run")
        return 0
    if asked.plan_json:
        return plan()
    path: Path = asked.run_dir
    folder = RunFolder(path)
    if folder.finished:
        raise UserError(f"{path} is finished")
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    fault = next_fault(path)
    if not folder.started:
        folder.write_text("command", " ".join(sys.argv) + "\n")
        folder.write_text("config", "\n".join(flags) + "\n")
    if fault.startswith("above:") and asked.batch_size > int(fault.removeprefix("above:")):
        raise UserError("out of memory", code=Exit.MEMORY)
    step, state = restore(path, flags, asked.batch_size * asked.gradient_accumulation)
    folder.cut_metrics(step, evaluated=False)
    while step < STEPS:
        if step == STEPS // 2:
            befall(fault)
        time.sleep(PAUSE)
        step, state = step + 1, hashlib.sha256(f"{state}{step}".encode()).hexdigest()
        now = time.time()
        folder.record({"step": step, "loss": number(state), "elapsed": now, "time": now})
        if step % (asked.checkpoint_interval or STEPS) == 0 or stop:
            save(path, step, state)
        if stop:
            return Exit.PREEMPTED
    save(path, step, state)
    folder.record({"step": step, "val_loss": number(state), "time": time.time()})
    folder.write_json("summary.json", summary(step, state))
    folder.close()
    return Exit.OK


def plan() -> int:
    """Print what $FAKE_PLAN says, or else that a cell takes a MiB."""
    told = {"host": 2**20, "needed": 2**19, "device": "cpu", "pool": "this machine", "fixes": []}
    more = json.loads(os.environ.get("FAKE_PLAN", "{}"))
    if more == "broken":
        raise UserError("no GPU")
    print(json.dumps({**told, "pool_most": 2**34, **more}))
    return 0


def number(state: str) -> float:
    return int(state[:8], 16) / 16**8


def next_fault(path: Path) -> str:
    """Return what befalls this attempt, and count it."""
    listed = os.environ.get("FAKE_FAULTS")
    plan = json.loads(Path(listed).read_text()).get(path.name, []) if listed else []
    counter = path.parent.parent / f"attempts-{path.name}"
    count = len(counter.read_text()) if counter.exists() else 0
    counter.write_text("x" * (count + 1))
    return str(plan[min(count, len(plan) - 1)]) if plan else ""


def befall(fault: str) -> None:
    kind, _, value = fault.partition(":")
    if kind == "exit":
        raise UserError(f"it befell: {fault}", code=Exit(int(value)))
    if kind == "bug":
        raise ZeroDivisionError(fault)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if kind == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)


def restore(path: Path, flags: list[str], batch: int) -> tuple[int, str]:
    found = sorted((path / "checkpoints").glob("step-*/MANIFEST.json"))
    if found:
        saved = json.loads(found[-1].read_text())
        return saved["step"], saved["state"]
    return 0, hashlib.sha256(f"{flags}{batch}".encode()).hexdigest()


def save(path: Path, step: int, state: str) -> None:
    folder = path / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "MANIFEST.json", json.dumps({"step": step, "state": state}))


def summary(step: int, state: str) -> dict[str, object]:
    return {
        "val_loss": number(state),
        "best": {"step": 20, "val_loss": 0.5},
        "steps": step,
        "sparsity_reached": 0.0,
        "seconds": time.time(),
        "peak_host_bytes": 2**20,
        "peak_device_bytes": 0,
        "peak_process_bytes": 0,
    }


if __name__ == "__main__":
    run_entry("fake_cell.py", main)
