"""Checkpoints: whole or absent, verified, kept and purged."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt2.checkpoint import store as ck
from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.files.manifest import DamagedError


def made(step: int) -> ck.Checkpoint:
    return ck.Checkpoint(
        step=step,
        model={"w": torch.full((4, 4), float(step)), "b": torch.zeros(4)},
        optim={"w.exp_avg": torch.full((4, 4), step / 2)},
        state={"elapsed": 1.5, "best": None},
    )


def no_warning(text: str) -> None:
    raise AssertionError(text)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    ck.save(tmp_path, made(3))
    found = ck.load_last(tmp_path, no_warning)
    assert found is not None
    assert found.step == 3
    assert found.state["elapsed"] == 1.5
    assert torch.equal(found.model["w"], made(3).model["w"])
    assert torch.equal(found.optim["w.exp_avg"], made(3).optim["w.exp_avg"])


def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    assert ck.load_last(tmp_path / "absent", no_warning) is None


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        ck.save(tmp_path, made(step), keep=[2])
    assert ck.steps(tmp_path) == [2, 4, 5]


def test_a_save_after_damage_keeps_what_it_wrote(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        ck.save(tmp_path, made(step), keep=[10])
    for step in (20, 30):
        flip(ck.folder_of(tmp_path, step) / "model.safetensors")
    said: list[str] = []
    found = ck.load_last(tmp_path, said.append)
    assert found is not None
    assert (found.step, len(said)) == (10, 2)
    ck.save(tmp_path, made(15))
    assert ck.steps(tmp_path) == [10, 15]
    assert ck.load_last(tmp_path, no_warning) is not None


def test_other_folders_are_no_checkpoints(tmp_path: Path) -> None:
    ck.save(tmp_path, made(1))
    (tmp_path / "step-00000001.bak").mkdir()
    assert ck.steps(tmp_path) == [1]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def unpickling_would_show(path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(path.parent.parent / "unpickled"),)

    path.write_bytes(pickle.dumps(Evil()))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "zeroes": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "missing": lambda path: path.unlink(),
    "a foreign pickle": unpickling_would_show,
}


@pytest.mark.parametrize("name", ["model.safetensors", "optim.safetensors", "state.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_the_one_before_is_taken(
    name: str, damage: str, tmp_path: Path
) -> None:
    ck.save(tmp_path, made(1))
    ck.save(tmp_path, made(2))
    DAMAGE[damage](ck.folder_of(tmp_path, 2) / name)
    said: list[str] = []
    found = ck.load_last(tmp_path, said.append)
    assert found is not None
    assert found.step == 1
    assert len(said) == 1
    assert name in said[0]
    DAMAGE[damage](ck.folder_of(tmp_path, 1) / name)
    with pytest.raises(UserError) as error:
        ck.load_last(tmp_path, said.append)
    assert error.value.code == Exit.CHECKPOINT
    assert not (tmp_path / "unpickled").exists()


def test_damaged_manifests(tmp_path: Path) -> None:
    ck.save(tmp_path, made(1))
    path = ck.folder_of(tmp_path, 1) / "MANIFEST.json"
    good = json.loads(path.read_text())
    for bad, said in (
        ({**good, "format": 99}, "format 99"),
        ({**good, "complete": False}, "incomplete"),
        ({**good, "files": {}}, "incomplete"),
        ([], "damaged"),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(DamagedError, match=said):
            ck.load(path.parent)


@pytest.mark.parametrize("point", ["checkpoint.tensor", "checkpoint.manifest", "checkpoint.rename"])
def test_a_full_disk_leaves_the_older_checkpoint(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ck.save(tmp_path, made(1))

    def full(name: str) -> None:
        if name == point:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(faults, "failpoint", full)
    with pytest.raises(OSError, match="No space"):
        ck.save(tmp_path, made(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert ck.load_last(tmp_path, no_warning) is not None


def test_saving_a_step_again_replaces_a_damaged_one(tmp_path: Path) -> None:
    ck.save(tmp_path, made(1))
    flip(ck.folder_of(tmp_path, 1) / "model.safetensors")
    ck.save(tmp_path, made(1))
    assert ck.load_last(tmp_path, no_warning) is not None


def test_unfinished_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-00000001-7").mkdir()
    ck.save(tmp_path, made(1))
    ck.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
