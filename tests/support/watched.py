"""The folder of a matrix at work, as the runner and its cells leave it, for who watches it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.study.folder import MatrixFolder
from scripts.study.records import Event, Failed, Finished, Started
from tests.support.small_cells import cell_record, matrix_record

STEPS = 1200


def metrics_text(steps: int, seed: int, offset: float = 0.0, every: int = 20) -> str:
    """Return lines of metrics.jsonl up to a step, written just now."""
    now, lines = time.time(), []
    for step in range(every, steps + 1, every):
        loss = 1.5 + 2.8 * math.exp(-step / 250) + offset
        noise = 0.05 * math.sin(step * 7.7 + seed)
        lines.append(
            {
                "step": step, "loss": loss + noise, "learning_rate": 1e-3 * (1 - step / STEPS),
                "grad_norm": 1 + 0.2 * math.cos(step + seed), "sparsity": 0.0,
                "tokens_per_second": 13000.0 + 100 * noise, "peak_host_bytes": 350_000_000,
                "peak_device_bytes": 0, "elapsed": step * 0.06, "time": now,
            }
        )  # fmt: skip
        if step % (5 * every) == 0:
            lines.append(
                {"step": step, "val_loss": loss + 0.02, "elapsed": 0.06 * step, "time": now}
            )
    return "".join(json.dumps(line) + "\n" for line in lines)


def write_matrix(path: Path, labels: Sequence[str], seeds: int, every: int = 20) -> MatrixFolder:
    """Write and lock a matrix of whose cells most are done, two run, and one has failed."""
    folder = MatrixFolder(path)
    folder.open()
    cells = [
        cell_record(name=f"{label}-seed{seed}", label=label, kind=label, seed=seed, steps=STEPS)
        for seed in range(1, seeds + 1)
        for label in labels
    ]
    folder.write_matrix(matrix_record(*cells, name="a study", seeds=tuple(range(1, seeds + 1))))
    done = len(cells) * 2 // 3
    events: list[Event] = []
    for number, cell in enumerate(cells):
        run = folder.run_dir(cell.name)
        if number >= done + 3:
            continue
        run.mkdir()
        events.append(Started(cell=cell.name))
        steps = STEPS if number < done else 400 + 300 * (number - done)
        offset = 0.03 * labels.index(cell.label)
        (run / "metrics.jsonl").write_text(metrics_text(steps, cell.seed, offset, every))
        if number < done:
            loss = 1.52 + offset + 0.005 * cell.seed
            result = {"val_loss": loss, "sparsity_reached": 0.0, "seconds": 72.0,
                      "tokens_per_second": 13000.0, "peak_host_bytes": 350_000_000,
                      "peak_device_bytes": 0}  # fmt: skip
            (run / "summary.json").write_text(json.dumps(result))
            events.append(Finished(cell=cell.name, seconds=75.0))
        elif number == done + 2:
            tail = "train.py: error: the loss is <NaN>"
            events.append(Failed(cell=cell.name, kind="diverged", exit_code=5, tail=tail))
    for event in events:
        folder.write(event)
    return folder
