"""What summary.json and run.json say for reports, held against the files themselves."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt2 import evaluate, export
from gpt2.checkpoint import store
from gpt2.config import code_hash
from gpt2.data.meta import read_meta
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


@pytest.mark.parametrize(("name", "split"), [("test", "test"), ("val_test", "val+test")])
def test_the_final_losses_are_those_of_evaluate(
    name: str, split: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--run", str(run), "--split", split]) == 0
    words = capsys.readouterr().out.replace(",", "").split()
    summary = read(run, "summary.json")
    for before, measure in (("loss", "loss"), ("perplexity", "perplexity")):
        found = float(words[words.index(before) + 1])
        assert found == pytest.approx(summary[f"{name}_{measure}"], abs=1e-4)
    bits = float(words[words.index("bits") - 1])
    assert bits == pytest.approx(summary[f"{name}_bits_per_byte"], abs=2e-6)
    assert summary["test_loss"] != summary["val_loss"]


def test_the_last_lines_show_the_test_loss_once(run: Path) -> None:
    lines = [line for line in (run / "log.txt").read_text().splitlines() if "test loss" in line]
    summary = read(run, "summary.json")
    assert len(lines) == 1
    assert f"test loss {summary['test_loss']:.4f}" in lines[0]
    assert lines[0].endswith(f"together {summary['val_test_loss']:.4f}")


def test_without_a_test_split_its_numbers_are_null(tmp_path: Path) -> None:
    data, folder = tiny.make_data(tmp_path / "data"), tmp_path / "run"
    meta = read_meta(data / "text")
    splits = {name: split for name, split in meta.splits.items() if name != "test"}
    (data / "text" / "meta.json").write_text(dataclasses.replace(meta, splits=splits).to_json())
    assert tiny.train(data, folder, "--max-steps", "1") == 0
    summary = read(folder, "summary.json")
    new = [name for name in summary if name.startswith(("test_", "val_test_"))]
    assert len(new) == 6
    assert all(summary[name] is None for name in new)
    assert summary["val_loss"] > 0.0
    assert "test loss" not in (folder / "log.txt").read_text()


def test_a_run_knows_the_code_it_is_of(run: Path) -> None:
    assert read(run, "run.json")["code"] == code_hash.code_hash()


def test_the_hash_follows_every_source_and_nothing_else(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "vocabulary")
    copy = Path(shutil.copytree(tiny.REPOSITORY / "gpt2", tmp_path / "gpt2", ignore=ignored))
    first = code_hash.code_hash(copy)
    assert first == code_hash.code_hash()
    (copy / "notes.txt").write_text("no source")
    assert code_hash.code_hash(copy) == first
    seen = {first}
    for name in ("train.py", "prune/methods/state.py", "training/Kconfig"):
        with (copy / name).open("a") as file:
            file.write("\n")
        seen.add(code_hash.code_hash(copy))
    (copy / "train.py").rename(copy / "trains.py")
    seen.add(code_hash.code_hash(copy))
    assert len(seen) == 5


@pytest.mark.slow
def test_a_run_of_two_versions_has_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folder = tiny.make_data(tmp_path / "data"), tmp_path / "run"
    more = ("--max-steps", "3", "--checkpoint-interval", "1")
    stopped = tiny.train_process(data, folder, *more, fault="checkpoint.rename:term:1")
    assert stopped.returncode == 75
    first = read(folder, "run.json")["code"]
    monkeypatch.setattr(code_hash, "code_hash", lambda: "f" * 64)
    assert tiny.train(data, folder, *more) == 0
    assert read(folder, "run.json")["code"] == f"{first}+{'f' * 64}"
