"""What summary.json and run.json say for reports, held against the files themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt2 import export
from gpt2.checkpoint import store
from gpt2.config import sources
from tests.support import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 4 steps, pruned to 70 %."""
    root = tmp_path_factory.mktemp("results")
    data, folder = tiny.make_data(root / "data"), root / "run"
    more = ("--pruning-method", "magnitude", "--target-sparsity", "0.7", "--max-steps", "4")
    assert tiny.train(data, folder, *more) == 0
    return folder


def read(run: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((run / name).read_text()))


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_the_bytes_on_disk_are_those_of_an_export(form: str, run: Path, tmp_path: Path) -> None:
    assert export.main(["--run", str(run), "--format", form, "--out", str(tmp_path / form)]) == 0
    (weights,) = (tmp_path / form).glob("*.safetensors")
    assert read(run, "summary.json")[f"{form}_bytes"] == weights.stat().st_size


def test_sparse_is_smaller_only_because_of_the_zeros(run: Path) -> None:
    summary = read(run, "summary.json")
    assert summary["sparse_bytes"] < summary["dense_bytes"]


def test_the_state_is_that_of_the_checkpoint(run: Path) -> None:
    found = store.load_last(run / "checkpoints", print)
    assert found is not None
    state = [t for name, t in found.optim.items() if not name.startswith("prune.")]
    size = sum(tensor.numel() * tensor.element_size() for tensor in state)
    summary = read(run, "summary.json")
    assert summary["optimizer_state_bytes"] == size
    # AdamW: two numbers a weight, and a count of steps for each tensor.
    assert 8 * summary["parameters"] <= size < 8.5 * summary["parameters"]


def test_a_run_knows_the_code_it_is_of(run: Path) -> None:
    assert read(run, "run.json")["code"] == sources.code_hash()


def test_the_hash_follows_every_source_and_nothing_else(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "vocabulary")
    copy = Path(shutil.copytree(tiny.REPOSITORY / "gpt2", tmp_path / "gpt2", ignore=ignored))
    first = sources.code_hash(copy)
    assert first == sources.code_hash()
    (copy / "notes.txt").write_text("no source")
    assert sources.code_hash(copy) == first
    seen = {first}
    for name in ("train.py", "prune/methods/state.py", "training/Kconfig"):
        with (copy / name).open("a") as file:
            file.write("\n")
        seen.add(sources.code_hash(copy))
    (copy / "train.py").rename(copy / "trains.py")
    seen.add(sources.code_hash(copy))
    assert len(seen) == 5


@pytest.mark.slow
def test_a_run_of_two_versions_has_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folder = tiny.make_data(tmp_path / "data"), tmp_path / "run"
    more = ("--max-steps", "3", "--checkpoint-interval", "1")
    stopped = tiny.train_process(data, folder, *more, fault="checkpoint.rename:term:1")
    assert stopped.returncode == 75
    first = read(folder, "run.json")["code"]
    monkeypatch.setattr(sources, "code_hash", lambda: "f" * 64)
    assert tiny.train(data, folder, *more) == 0
    assert read(folder, "run.json")["code"] == f"{first}+{'f' * 64}"
