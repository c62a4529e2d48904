"""The list of runs says when, what is special, how far and how it ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2.config.options import Options
from gpt2.config.schema import TRAIN_TREE
from scripts import list_runs
from scripts.kconfig.start import CPU_DEFCONFIG, DEFCONFIGS


def make_run(parent: Path, name: str, status: str, *given: tuple[str, str]) -> Path:
    run = parent / name
    run.mkdir(parents=True)
    options = Options(TRAIN_TREE)
    options.read(DEFCONFIGS / CPU_DEFCONFIG)
    for option, value in given:
        options.give(option, value, "--test")
    (run / "config").write_text(options.full_text())
    tokenizer = {"name": "char", "vocab_size": 65}
    record = {
        "status": status,
        "start": "2026-11-28T10:00:00",
        "effective_batch": 32,
        "device": "cpu",
        "precision": "fp32",
        "data": {"data_hash": "0", "tokenizer": tokenizer},
    }
    (run / "run.json").write_text(json.dumps(record))
    (run / "metrics.jsonl").write_text('{"step": 7, "val_loss": 2.5}\n')
    return run


def test_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_runs.main(["--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no run yet: 'make' trains one\n"
    done = make_run(tmp_path, "done", "finished")
    (done / "summary.json").write_text(json.dumps({"steps": 9, "val_loss": 1.25}))
    make_run(tmp_path, "other", "running", ("BATCH_SIZE", "5"), ("SEED", "3"), ("NAME", "mine"))
    pruned = ("PRUNING_METHOD", "magnitude"), ("TARGET_SPARSITY", "0.8")
    sparse = make_run(tmp_path, "sparse", "preempted", ("OPTIMIZER", "adamw"), *pruned)
    (sparse / "checkpoints" / "step-00000012").mkdir(parents=True)
    (sparse / "checkpoints" / "step-00000009").mkdir()
    (sparse / "checkpoints" / "step-00000013.partial").mkdir()
    make_run(tmp_path, "library", "failed", ("OPTIMIZER", "po:soap"))
    make_run(tmp_path, "hurt", "failed")
    (tmp_path / "hurt" / "run.json").write_text("{")
    (tmp_path / "latest").symlink_to("done")
    assert list_runs.main(["--runs", str(tmp_path)]) == 0
    lines = {line.split()[2]: line for line in capsys.readouterr().out.splitlines()[1:]
             if line.startswith("2026")}  # fmt: skip
    assert set(lines) == {"done", "other", "sparse", "library"}
    assert lines["library"].split()[3] == "po:soap"
    assert (
        "  12     2.5000  stopped (make resume)" in lines["sparse"]  # more than was logged
    )
    differing = lines["sparse"].partition(": ")[2]
    assert differing.startswith("optimizer adamw, pruning-method magnitude, target-sparsity 0.8, ")
    assert "has-" not in differing
    assert lines["done"].split()[3:] == ["muon", "9", "1.2500", "finished", CPU_DEFCONFIG]
    assert "7      2.5000  killed" in lines["other"]
    assert "other (mine)" in lines["other"]
    assert lines["other"].endswith(f"{CPU_DEFCONFIG}: batch-size 5, seed 3")
