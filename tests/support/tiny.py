"""A model and a corpus so small that a whole run takes a second, for tests of training."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt2.checkpoint import store
from gpt2.data.corpus import WholeText
from gpt2.data.prepare.pipeline import prepare
from gpt2.data.tokenizer import CharTokenizer
from gpt2.train import main
from tests.support import warm

REPOSITORY = Path(__file__).resolve().parents[2]
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
    command = ["gpt2/train.py", *flags(data, run, *more)]
    return warm.run(command, {"PATH": "/usr/bin:/bin", "GPT2_FAULT": fault})


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without what depends on the clock."""
    clock = ("elapsed", "time", "tokens_per_second", "peak_host_bytes", "mfu")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def checkpoint_bytes(run: Path) -> dict[str, bytes]:
    """Return the tensor files of the newest checkpoint of a run."""
    newest = max((run / "checkpoints").glob("step-*"))
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def rewrite(run: Path, change: Callable[[str, Tensor], None]) -> None:
    """Change the weights in every checkpoint of a run: `change` is given each name and tensor."""
    parent = run / "checkpoints"
    for step in store.steps(parent):
        folder = store.folder_of(parent, step)
        found = store.load(folder)
        tensors = {name: tensor.clone() for name, tensor in found.model.items()}
        for name, tensor in tensors.items():
            change(name, tensor)
        shutil.rmtree(folder)
        made = store.Checkpoint(step, tensors, found.optim, found.state)
        store.save(parent, made, keep=store.steps(parent))


def prune(run: Path, share: float) -> None:
    """Set the smallest weights of each attention and MLP matrix of a run to zero."""

    def change(name: str, tensor: Tensor) -> None:
        if ".h." in name and tensor.dim() == 2:
            order = tensor.abs().flatten().argsort()
            tensor.view(-1)[order[: round(share * tensor.numel())]] = 0.0

    rewrite(run, change)


def prune_two_of_four(run: Path) -> None:
    """Set the two smallest of every four weights in a row of each such matrix to zero."""

    def change(name: str, tensor: Tensor) -> None:
        if ".h." in name and tensor.dim() == 2:
            groups = tensor.view(-1, 4)
            groups.scatter_(1, groups.abs().argsort(dim=1)[:, :2], 0.0)

    rewrite(run, change)
