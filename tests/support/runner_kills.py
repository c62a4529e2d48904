"""The runner of a matrix, and its cells, killed at random instants until it is done."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any


def events(out: Path) -> list[dict[str, Any]]:
    path = out / "journal.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"}")]


def started(out: Path) -> int:
    """How many runners have begun."""
    return sum(line["event"] == "begin" for line in events(out))


def disturb(rng: random.Random, runner: subprocess.Popen[bytes], out: Path) -> str:
    """Kill the runner, a cell, or both; say what."""
    what = rng.choice(["runner", "runner", "cell", "both", "term"])
    started = [line["pid"] for line in events(out) if line["event"] == "started"][-1:]
    if what in ("cell", "both"):
        for pid in started:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                what = "nobody" if what == "cell" else "runner"
    if what in ("runner", "both"):
        runner.kill()
    if what == "term":
        runner.terminate()
    return what


def one_runner(
    rng: random.Random,
    runs: list[str],
    out: Path,
    kills: Counter[str],
    most: int,
    pause: float = 0.5,
) -> int:
    """Start a runner and disturb it until it ends, every `pause` seconds at most.

    Not after `most` kills; returns its exit code.
    """
    begun = started(out)
    with (out.parent / "said").open("ab") as said:
        runner = subprocess.Popen(runs, stdout=said, stderr=said)
    try:
        early = rng.random() < 0.1
        while runner.poll() is None and started(out) == begun and not early:
            time.sleep(0.01)
        while runner.poll() is None and kills.total() < most:
            time.sleep(rng.uniform(0.0, pause))
            if runner.poll() is None:
                kills[disturb(rng, runner, out)] += 1
        return runner.wait(timeout=60)
    finally:
        runner.kill()
