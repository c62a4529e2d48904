"""Run directories with made-up results, for tests of the report: nothing was trained in them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from gpt2.config.options import Options

#: As much of a matrix as a table of a report needs: two optimizers, dense and three methods.
METHODS = ("none", "magnitude", "movement", "state")


@cache
def config_text(given: tuple[tuple[str, str], ...]) -> str:
    """Return the full config with these options given."""
    options = Options()
    for name, value in given:
        options.give(name, value, "a test")
    assert not options.check()
    return options.full_text()


def write_run(
    folder: Path,
    loss: float | None,
    seed: int = 1,
    optimizer: str = "adamw",
    method: str = "none",
    sparsity: float = 0.5,
    **changes: Any,
) -> Path:
    """Write a run directory; a loss of None is a run without results.

    `changes` are to run.json or, where it has such an entry, to summary.json; `options` are more
    options by name. With `test_loss`, the data have a test split.
    """
    tested = {"test_loss": changes.pop("test_loss")} if "test_loss" in changes else {}
    given = {"OPTIMIZER": optimizer, "PRUNING_METHOD": method, **changes.pop("options", {})}
    if method != "none":
        given["TARGET_SPARSITY"] = f"{sparsity:g}"
    folder.mkdir(parents=True)
    text = config_text(tuple(given.items())).replace("CONFIG_SEED=1337", f"CONFIG_SEED={seed}")
    (folder / "config").write_text(text)
    (folder / "command").write_text(f"python3 gpt2/train.py --seed {seed} --run-dir {folder}\n")
    reached = sparsity if method != "none" else 0.0
    record: dict[str, Any] = {
        "status": "finished" if loss is not None else "failed",
        "exit_code": 0 if loss is not None else 5,
        "start": f"2026-11-24T10:{seed:02}:00+00:00",
        "end": f"2026-11-24T10:{seed:02}:30+00:00",
        "resumes": [],
        "seed": seed,
        "effective_batch": 8,
        "precision": "fp32",
        "compiled": False,
        "code": "c" * 64,
        "commit": "d" * 40,
        "host": "a-host",
        "device": "cuda",
        "device_name": "a card",
        "threads": 1,
        "data": {"dataset": "text", "data_hash": "a" * 64},
        "versions": {"torch": "2.13.0"},
    }
    summary: dict[str, Any] = {
        "val_loss": loss,
        "val_perplexity": 2.718281828459045 ** (loss or 0.0),
        "best": {"step": 50, "val_loss": 0.123456},
        "steps": 100,
        "tokens": 51200,
        "seconds": 10.0 + seed,
        "tokens_per_second": 5000.0,
        "parameters": 1000,
        "sparsity_asked": reached,
        "sparsity_reached": reached,
        "sparsity_whole": 0.9 * reached,
        "sparsity_layers": {"transformer.h.0.attn.c_attn.weight": reached} if reached else {},
        "optimizer_state_bytes": 8000,
        "dense_bytes": 4100,
        "sparse_bytes": round(4200 * (1.03 - reached)),
        "skipped_steps": 0,
        "spiked_steps": 0,
        "rollbacks": 0,
        "peak_host_bytes": 300_000_000,
        "peak_device_bytes": 200_000_000,
        **tested,
    }
    for name, value in changes.items():
        (summary if name in summary else record)[name] = value
    (folder / "run.json").write_text(json.dumps(record))
    if loss is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    lines: list[dict[str, Any]] = [{"step": 1, "loss": 4.0, "sparsity": reached / 100}]
    for step in (25, 50, 75, 100):
        value = (loss or 2.0) + (100 - step) / 100
        lines.append({"step": step, "val_loss": value, "sparsity": reached * step / 100})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_matrix(out: Path, cells: int = 4, seeds: int = 5) -> Path:
    """Write a matrix of both optimizers; `state` is 0.05 better than magnitude, for every seed."""
    effect = {"none": 0.0, "magnitude": 0.10, "movement": 0.10, "state": 0.05}
    for seed in range(1, seeds + 1):
        for optimizer in ("adamw", "adamwspam"):
            for method in METHODS[:cells]:
                scatter = 0.001 * ((seed * 7 + len(method) * 3 + len(optimizer)) % 5)
                name = f"{optimizer}-{method}-{seed}"
                loss = 1.5 + 0.03 * seed + effect[method] + scatter
                write_run(out / "cells" / name, loss, seed, optimizer, method)
    spec = {"format": 1, "name": "a study", "seeds": [1, 2, 3, 4, 5], "tuning": None, "jobs": 1}
    names = sorted(path.name for path in (out / "cells").iterdir())
    spec["cells"] = [{"name": name} for name in names]
    (out / "matrix.json").write_text(json.dumps(spec))
    return out
