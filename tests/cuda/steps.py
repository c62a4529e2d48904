"""A step of check-gpu: it runs a command, keeps its result, and ends within the part's time."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.cuda.table import Row

REPOSITORY = Path(__file__).resolve().parents[2]
DRY = bool(os.environ.get("DRY"))
TINY = "--model custom --n-layer 1 --n-head 2 --n-embd 32"
DEVICE = "--device cpu --num-threads 1" if DRY else "--device cuda"
SHORT = (
    f"{TINY} --block-size 32 --batch-size 2 --max-steps 30"
    if DRY
    else "--model gpt2-mini --batch-size 16 --max-steps 30"
)
#: The last lines of a step that failed.
_TAIL = 6


class Check:
    """One go through a part: rows of results, each step within the time that is left."""

    def __init__(self, part: str, runs: Path, out: Path, limit: float) -> None:
        self.part, self.runs, self.out = part, runs, out
        self.rows: list[Row] = []
        self._end = time.monotonic() + limit

    @property
    def failed(self) -> bool:
        """Whether a step did."""
        return any(row.verdict == "FAILED" for row in self.rows)

    def add(self, what: str, verdict: str, result: str = "", seconds: float = 0.0) -> None:
        """Keep a result, and say it."""
        row = Row(self.part, what, verdict, result, seconds)
        self.rows.append(row)
        print(f"=== {time.strftime('%T')} {what}: {verdict} {result}", flush=True)

    def step(self, what: str, least: float, work: Callable[[], str]) -> None:
        """Do `work`, which returns a result; left out where less than `least` seconds are left."""
        left = self._end - time.monotonic()
        if left < least and not DRY:
            self.add(what, "left out", f"{left:.0f} s were left, it wants {least:.0f}")
            return
        start = time.monotonic()
        try:
            result = work()
        except FailureError as error:
            self.add(what, "FAILED", str(error), time.monotonic() - start)
        else:
            self.add(what, "ok", result, time.monotonic() - start)

    def run(self, *command: str, most: float = 200.0, fault: str = "", code: int = 0) -> str:
        """Run a Python command in the repository; return its output. Raises FailureError."""
        left = max(5.0, self._end - time.monotonic()) if not DRY else 400.0
        environment = {**os.environ, "GPT2_FAULT": fault} if fault else dict(os.environ)
        try:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=min(left, most) if not DRY else left,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FailureError(f"no end after {error.timeout:.0f} s") from error
        if done.returncode != code:
            print(done.stdout[-3000:], flush=True)
            last = " / ".join(done.stdout.strip().splitlines()[-_TAIL:])
            raise FailureError(f"exit {done.returncode}: {last[-300:]}")
        return done.stdout

    def train(
        self, run: str, *flags: str, most: float = 200.0, fault: str = "", code: int = 0
    ) -> str:
        """Run train.py into the folder `run`; return its output."""
        words = [*data_flags(), *shlex.split(DEVICE), *flags, "--run-dir", str(self.runs / run)]
        return self.run("gpt2/train.py", *words, most=most, fault=fault, code=code)

    def results(self, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return run.json and summary.json of a run."""
        folder = self.runs / run
        record, summary = (
            json.loads((folder / name).read_text()) for name in ("run.json", "summary.json")
        )
        return record, summary

    def bench(self, name: str, *words: str) -> dict[str, Any]:
        """Run bench.py; return what it writes."""
        path = self.out / f"{name}.json"
        own, flags = split_words(words)
        self.run("scripts/bench.py", *own, "--json", str(path), "--", *flags, most=150.0)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


class FailureError(Exception):
    """A step that came to no good end, in words."""


def data_flags() -> list[str]:
    flags = shlex.split(os.environ.get("DATA_FLAGS", "--dataset shakespeare"))
    return [*flags, "--data-dir", os.environ.get("DATA_DIR", "data")]


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    cut = list(words).index("--")
    return list(words[:cut]), list(words[cut + 1 :])


def has_modules(*modules: str) -> bool:
    """Whether all of these can be imported, which is not tried."""
    return all(importlib.util.find_spec(name) is not None for name in modules)
