"""The trackers with their real libraries, each where it is installed: what a killed run leaves.

tests/run_dir/test_tracking.py has the rest, with libraries that are made up.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gpt2.config.errors import Exit
from tests.support import tiny, warm

#: Steps of the run, and those of the checkpoint that it resumes from.
STEPS, SAVED = 30, 10


@dataclass
class Kept:
    """What a tracker has of a run."""

    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)

    def add(self, tag: str, step: int, value: float) -> None:
        self.scalars.setdefault(tag, []).append((step, value))


def of_tensorboard(folder: Path) -> Kept:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept, events = Kept(), EventAccumulator(str(folder / "run" / "tracker")).Reload()
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            kept.add(tag, event.step, event.value)

    def texts(name: str) -> list[str]:
        found = events.Tensors(f"{name}/text_summary")
        return [event.tensor_proto.string_val[0].decode() for event in found]

    kept.samples = texts("sample")
    lines = [line.strip().partition(" = ") for line in texts("options")[0].splitlines()]
    kept.config = {key: value for key, _, value in lines}
    return kept


def records_of_wandb(path: Path) -> Iterator[bytes]:
    """Yield the records of a .wandb file: LevelDB's log in blocks of 32 KiB, after 7 bytes."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        _, size, kind = struct.unpack_from("<IHB", data, at) if left >= 7 else (0, 0, 0)
        if kind == 0:  # the rest of the block is empty
            at += left
            continue
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def of_wandb(folder: Path) -> Kept:
    from wandb.proto import wandb_internal_pb2

    kept = Kept()
    for path in sorted((folder / "run" / "tracker" / "wandb").glob("offline-run-*/*.wandb")):
        for data in records_of_wandb(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                kept.names.add(record.run.display_name)
                kept.tags = list(record.run.tags)
                kept.config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            elif record.WhichOneof("record_type") == "history":
                items = record.history.item
                line = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                for tag, value in line.items():
                    if "/" in tag:
                        kept.add(tag, line["_step"], value)
                if "sample.path" in line:
                    text = path.parent / "files" / line["sample.path"]
                    kept.samples.append(text.read_text())
    return kept


def of_trackio(folder: Path) -> Kept:
    kept = Kept()
    with sqlite3.connect(folder / "trackio" / "gpt2.db") as base:
        for name, step, metrics in base.execute("select run_name, step, metrics from metrics"):
            kept.names.add(name)
            for tag, value in json.loads(metrics).items():
                if tag == "sample":
                    kept.samples.append(value["_value"])
                else:
                    kept.add(tag, step, value)
        ((config,),) = base.execute("select config from configs")
        kept.config = json.loads(config)
    return kept


READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_killed_run_resumes_as_one_run_with_no_step_twice(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name, reason=f"not installed: python3 -m pip install {name}")
    data, run = tiny.make_data(tmp_path / "data"), tmp_path / "run"
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "HF_HUB_OFFLINE": "1",
    }
    own = ["--wandb-tags", "baseline,quick"] if name == "wandb" else []
    flags = tiny.flags(
        data, run, "--tracker", name, "--name", "quick", *own, "--max-steps", str(STEPS),
        "--checkpoint-interval", str(SAVED), "--eval-interval", "7", "--sample-tokens", "9",
        "--log-interval", "20",
    )  # fmt: skip
    killed = {**environment, "GPT2_FAULT": "checkpoint.rename:kill:2"}
    assert warm.run(["gpt2/train.py", *flags], killed).returncode < 0
    done = warm.run(["gpt2/train.py", *flags], environment)
    assert done.returncode == Exit.OK, done.stderr
    assert "tracker" not in done.stderr

    kept = READERS[name](tmp_path)
    lines = tiny.metrics(run)
    for tag, key in (("train/loss", "loss"), ("val/loss", "val_loss")):
        expected = {line["step"]: pytest.approx(line[key]) for line in lines if key in line}
        found = dict(kept.scalars[tag])
        assert len(found) == len(kept.scalars[tag]), "a step is there twice"
        # A kill loses what a library had not written yet: a second, and it is not logged again.
        lost = set() if name == "tensorboard" else set(range(1, 2 * SAVED + 1))
        assert expected.keys() - lost <= found.keys() <= expected.keys()
        assert all(value == expected[step] for step, value in found.items())
    summary = json.loads((run / "summary.json").read_text())
    assert kept.scalars["final/val_loss"] == [(STEPS, pytest.approx(summary["val_loss"]))]
    assert kept.config["optimizer"] == "adamw"
    (sample,) = kept.samples  # W&B's stands in a page
    assert "".join((run / "sample.txt").read_text().split()) in "".join(sample.split())
    if name != "tensorboard":  # whose run is called by its folder
        (called,) = kept.names
        assert called.startswith("quick-")
    if name == "wandb":
        assert kept.tags == ["baseline", "quick"]
