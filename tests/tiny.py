"""A model and a corpus so small that a whole run takes a second, for tests of training."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpt2.data.corpus import WholeText
from gpt2.data.preparation import prepare
from gpt2.data.tokenizer import CharTokenizer
from gpt2.train import main

REPOSITORY = Path(__file__).resolve().parents[1]
SHAPE = ["--model", "custom", "--n-layer", "2", "--n-head", "2", "--n-embd", "16"]
BLOCK = 8


def make_data(folder: Path, characters: int = 500) -> Path:
    """Prepare a text as the corpus `text`, one token per character; return the --data-dir."""
    rng = random.Random(7)
    words = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler"]
    text = ""
    while len(text) < characters:
        text += rng.choice(words) + rng.choice([" ", " ", ".\n"])
    text = text[:characters]
    source = {"address": "a test", "sha256": "0" * 64}
    prepare(WholeText(text, source, CharTokenizer(text)), folder / "text", "text")
    return folder


def flags(data: Path, run: Path, *more: str) -> list[str]:
    """Return the flags of a tiny run in `run`."""
    return [
        "--dataset", "text", "--tokenizer", "char", "--data-dir", str(data),
        "--run-dir", str(run), *SHAPE, "--block-size", str(BLOCK), "--batch-size", "4",
        "--device", "cpu", "--num-threads", "1", "--log-interval", "1", "--sample-tokens", "0",
        "--eval-interval", "0", "--checkpoint-interval", "0", *more,
    ]  # fmt: skip


def train(data: Path, run: Path, *more: str) -> int:
    """Train in this process; return the exit code."""
    return main(flags(data, run, *more))


def train_process(
    data: Path, run: Path, *more: str, fault: str = ""
) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, with GPT2_FAULT armed."""
    command = [sys.executable, "gpt2/train.py", *flags(data, run, *more)]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "GPT2_FAULT": fault},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without what depends on the clock."""
    clock = ("elapsed", "time", "tokens_per_second")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def checkpoint_bytes(run: Path) -> dict[str, bytes]:
    """Return the tensor files of the newest checkpoint of a run."""
    newest = max((run / "checkpoints").glob("step-*"))
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}
