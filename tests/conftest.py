"""Fixtures of several test files."""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt2.config import faults
from gpt2.config.bind import bind, option_hints, unwrap
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.schema import TRAIN_TREE
from gpt2.config.typed import Auto, Size, Within

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; what they start does, too.
    os.environ["OMP_NUM_THREADS"] = "1"

# A background job of a shell, nohup's too, and all that it starts, would not notice these.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

REPOSITORY = Path(__file__).resolve().parents[1]
ODD_FOLDERS = (
    "my data",
    "it's",
    'a "b" c',
    "$HOME",
    "back\\slash",
    "-dash",
    "--resume",
    "\u00e4;#!*",
)

Arm = Callable[[str], None]
WriteConfig = Callable[..., Path]
RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_finish() -> None:
    """Spare what the tests have imported from every later garbage collection: it stays anyway."""
    gc.freeze()


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Return a function that writes lines to a .config and returns its path."""

    def write(*lines: str) -> Path:
        path = tmp_path / ".config"
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arm]:
    """Return what arms GPT2_FAULT in this process, its passings counted anew; "" disarms it."""

    def armed(plan: str) -> None:
        monkeypatch.setenv("GPT2_FAULT", plan)
        monkeypatch.setattr(faults, "_hits", itertools.count(1))
        faults._armed.cache_clear()

    yield armed
    monkeypatch.undo()
    faults._armed.cache_clear()


@pytest.fixture
def without_torch(tmp_path: Path) -> RunScript:
    """Return a function that runs Python in a process where importing torch is fatal.

    By default in the repository's root; `here` is another folder, and more variables can be given.
    """
    poison = tmp_path / "poison"
    (poison / "torch").mkdir(parents=True)
    (poison / "torch" / "__init__.py").write_text("import os\nos._exit(99)\n")

    def run(
        *arguments: str, here: Path = REPOSITORY, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=here,
            env={**os.environ, "PYTHONPATH": str(poison), **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def random_options(seed: int, tree: Path = TRAIN_TREE) -> Options:
    """Return a random right configuration: most of the visible options are given.

    The optimizers take turns from seed to seed, so that few seeds reach the options of each.
    """
    rng = random.Random(seed)
    while True:
        options = Options(tree)
        hints = option_hints(options)
        optimizers = list(options.members("OPTIMIZER"))
        options.give("OPTIMIZER", optimizers[seed % len(optimizers)], "--drawn")
        for name in options.names():
            if name != "OPTIMIZER" and rng.random() < 0.7 and not options.unmet(name):
                options.give(
                    name, _random_value(rng, options, name, hints.get(name, str)), "--drawn"
                )
        try:
            bind(options)
        except UserError:
            continue  # options that contradict each other, such as a width and its heads
        return options


def _random_value(rng: random.Random, options: Options, name: str, hint: object) -> str:
    if name in options.choices:
        members = options.members(name)
        return rng.choice([word for word, symbol in members.items() if not options.unmet(symbol)])
    kind, notes = unwrap(hint)
    if kind is bool:
        return rng.choice("yn")
    if kind in (Path, str):  # of a name, only the default is known to be good
        return rng.choice(ODD_FOLDERS) if kind is Path else options.value(name) or ""
    if name == "N_EMBD":
        return str(int(options.value("N_HEAD") or 1) * rng.randint(1, 64))
    if bounds := options.bounds(name):
        low, high = (int(end) for end in bounds.split(".."))
        return str(rng.randint(low, min(high, low + 3000)))
    if any(isinstance(note, Auto) for note in notes) and rng.random() < 0.5:
        return "auto"
    if kind is int:
        sized = any(isinstance(note, Size) for note in notes)
        return f"{rng.randint(1, 64)}GiB" if sized else str(rng.randint(0, 5000))
    within = next(note for note in notes if isinstance(note, Within))
    return next(
        text
        for text in iter(lambda: f"{rng.choice([1.0, 1e-3]) * rng.random():.3g}", "")
        if float(text) in within
    )
