"""Checkpoints that several ranks write and read together: threads stand for the ranks.

Whole runs whose ranks are processes are in machine/test_ranks.py.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2.checkpoint import sharded
from gpt2.checkpoint import store as ck
from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.files.manifest import DamagedError
from gpt2.machine.ranks import DistributedContext
from tests.checkpoint.test_store import DAMAGE, flip, made, no_warning


class Meeting:
    """Where threads exchange values, each under its rank, as ranks do over gloo."""

    def __init__(self, count: int) -> None:
        self.values: list[Any] = [None] * count
        self.barrier = threading.Barrier(count, timeout=20)


@dataclasses.dataclass(frozen=True)
class Threads(DistributedContext):
    meeting: Meeting | None = None

    def gather(self, value: Any, aside: bool = False) -> list[Any]:
        assert self.meeting is not None
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        found = list(self.meeting.values)
        self.meeting.barrier.wait()
        return found


def on_ranks(count: int, task: Callable[[DistributedContext], Any]) -> list[Any]:
    """Return what `task` gives on each rank; its error, where it raises one."""
    meeting = Meeting(count)

    def run(rank: int) -> Any:
        try:
            return task(Threads(rank, count, sharded=True, meeting=meeting))
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


WHOLE = {"w": torch.arange(28.0).view(7, 4), "b": torch.arange(2.0)}
STATE = {"w.m": torch.arange(28.0).view(7, 4) / 3, "w.step": torch.tensor(5.0)}


def part(tensors: dict[str, Tensor], rank: int, ranks: int) -> dict[str, Tensor]:
    """What a rank holds of tensors that FSDP divides; the first one writes what is not divided."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.dim() == 0:
            if rank == 0:
                found[name] = tensor
            continue
        rows = tensor.split(math.ceil(tensor.size(0) / ranks))
        if rank < len(rows):
            found[name] = rows[rank]
    return found


def nothing() -> None: ...


def save(
    parent: Path,
    step: int,
    ranks: int = 3,
    keep: tuple[int, ...] = (),
    before: Callable[[], None] = nothing,
) -> list[Any]:
    def task(context: DistributedContext) -> None:
        model, optim = (part(held, context.rank, ranks) for held in (WHOLE, STATE))
        own = ck.Checkpoint(step, model, optim, {"elapsed": 1.5})
        sharded.save(parent, own, keep, context, before)

    return on_ranks(ranks, task)


def load_last(parent: Path, ranks: int, warn: Callable[[str], None] = no_warning) -> list[Any]:
    return on_ranks(ranks, lambda context: ck.load_last(parent, warn, context))


def is_whole(found: ck.Checkpoint, step: int) -> bool:
    assert found.model.keys() == WHOLE.keys()
    assert found.optim.keys() == STATE.keys()
    same = [torch.equal(found.model[name], WHOLE[name]) for name in WHOLE]
    same += [torch.equal(found.optim[name], STATE[name]) for name in STATE]
    return all(same) and found.step == step and found.state["elapsed"] == 1.5


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_what_ranks_save_comes_back_on_any_number_of_them(ranks: int, tmp_path: Path) -> None:
    assert save(tmp_path, 4, ranks=3) == [None] * 3
    names = {path.name for path in ck.folder_of(tmp_path, 4).iterdir()}
    kinds = [
        f"{kind}-0000{n}-of-00003.safetensors" for kind in ("model", "optim") for n in (1, 2, 3)
    ]
    assert names == {*kinds, "state.json", "MANIFEST.json"}
    assert all(is_whole(found, 4) for found in load_last(tmp_path, ranks))
    alone = ck.load_last(tmp_path, no_warning)  # as sample.py does
    assert alone is not None
    assert is_whole(alone, 4)


def test_a_rank_writes_no_more_than_its_part(tmp_path: Path) -> None:
    save(tmp_path, 1, ranks=2)
    sizes = [
        (ck.folder_of(tmp_path, 1) / ck.shard_file("model", rank, 2)).stat().st_size
        for rank in range(2)
    ]
    assert max(sizes) < 0.7 * (28 * 4 + 2 * 4) + 200  # the second number is the header


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=(1,))
    assert ck.steps(tmp_path) == [1, 3, 4]
    ck.save(tmp_path, made(5))  # a run that went on with one rank
    assert ck.steps(tmp_path) == [4, 5]
    assert save(tmp_path, 6, ranks=2) == [None] * 2
    assert ck.steps(tmp_path) == [5, 6]


@pytest.mark.parametrize("name", [ck.shard_file("model", 1, 3), ck.shard_file("optim", 2, 3)])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_that_one_rank_finds_sends_all_back(name: str, damage: str, tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    DAMAGE[damage](ck.folder_of(tmp_path, 2) / name)
    said: list[str] = []
    assert all(is_whole(found, 1) for found in load_last(tmp_path, 3, said.append))
    assert len(said) == 3  # of the ranks, the first one alone is heard
    assert len(set(said)) == 1
    assert name in said[0]
    DAMAGE[damage](ck.folder_of(tmp_path, 1) / name)
    for error in load_last(tmp_path, 3, said.append):
        assert isinstance(error, UserError)
        assert error.code == Exit.CHECKPOINT
    assert not (tmp_path / "unpickled").exists()


def test_every_file_is_verified_by_one_of_the_ranks(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = ck.folder_of(tmp_path, 1)
    files = sorted(path for path in folder.iterdir() if path.name != "MANIFEST.json")
    assert len(files) == 7
    for path in files:
        good = path.read_bytes()
        flip(path)
        errors = on_ranks(2, lambda context: ck.load(folder, context))
        assert all(isinstance(error, DamagedError) and path.name in str(error) for error in errors)
        path.write_bytes(good)


@pytest.mark.parametrize("ranks", [0, -1, 2, 10**12, "2", None])
def test_a_manifest_with_a_wrong_number_of_ranks(ranks: object, tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = ck.folder_of(tmp_path, 1) / "MANIFEST.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ranks": ranks}))
    with pytest.raises(DamagedError, match=r"MANIFEST.json is (incomplete|missing or damaged)"):
        ck.load(path.parent)


@pytest.mark.parametrize("point", ["checkpoint.tensor", "checkpoint.manifest", "checkpoint.rename"])
def test_a_disk_that_is_full_for_one_rank_is_so_for_all(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    tensors = []

    def full(name: str) -> None:
        tensors.append(name)
        if name == point and (name != "checkpoint.tensor" or len(tensors) >= 4):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(faults, "failpoint", full)
        errors = save(tmp_path, 2)
    assert [getattr(error, "errno", None) for error in errors] == [errno.ENOSPC] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert all(is_whole(found, 1) for found in load_last(tmp_path, 3))
    assert save(tmp_path, 2) == [None] * 3


def test_what_the_first_rank_cannot_do_before_ends_the_save_on_all(tmp_path: Path) -> None:
    def gone() -> None:
        raise FileNotFoundError(errno.ENOENT, "the run directory is gone", "run")

    errors = save(tmp_path / "new", 1, before=gone)
    assert all(isinstance(error, FileNotFoundError) for error in errors)
    assert not (tmp_path / "new").exists()


def test_too_little_room_for_all_parts_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forecast is of what all ranks write."""
    save(tmp_path, 1)
    files = [p for p in ck.folder_of(tmp_path, 1).iterdir() if p.name != "MANIFEST.json"]
    size = sum(path.stat().st_size for path in files)
    usage = shutil.disk_usage(tmp_path)._replace(free=size)  # a tenth too little
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    errors = save(tmp_path, 2)
    assert all("bytes free, and it needs" in str(error) for error in errors)
    assert ck.steps(tmp_path) == [1]


def test_a_step_that_is_saved_already_is_left_unless_it_is_damaged(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = ck.folder_of(tmp_path, 1) / ck.shard_file("optim", 2, 3)
    before = path.stat().st_ino
    save(tmp_path, 1)
    assert path.stat().st_ino == before
    flip(path)
    save(tmp_path, 1)
    assert all(is_whole(found, 1) for found in load_last(tmp_path, 3))


def test_an_older_program_refuses_it_by_its_format(tmp_path: Path) -> None:
    """It would else take it for damage, go back, and in time remove it."""
    save(tmp_path, 1)
    manifest = json.loads((ck.folder_of(tmp_path, 1) / "MANIFEST.json").read_text())
    assert (manifest["format"], manifest["ranks"]) == (2, 3)
    ck.save(tmp_path, made(2))
    manifest = json.loads((ck.folder_of(tmp_path, 2) / "MANIFEST.json").read_text())
    assert manifest.keys() == {"format", "files", "complete"}
    assert manifest["format"] == 1  # which older programs read
