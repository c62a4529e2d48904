"""The data folder: what is opened is what meta.json says, and every fault names its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data import tokens
from gpt2.data.meta import read_meta
from gpt2.data.tokens import open_split, verify_hashes
from tests.support.data_folder import VOCAB, make_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "shakespeare", list(range(90)), list(range(20)))
    return tmp_path / "shakespeare"


def refused(folder: Path, split: str = "train", block_size: int = 8) -> str:
    with pytest.raises(UserError) as caught:
        open_split(folder, split, block_size)
    assert caught.value.code == Exit.DATA
    assert len(caught.value.messages) == 1
    assert "\n" not in caught.value.messages[0]
    return caught.value.messages[0]


def test_a_split_is_a_read_only_map(folder: Path) -> None:
    found = open_split(folder, "val", 8)
    assert found.ids.tolist() == list(range(20))
    assert found.text_bytes == 40
    assert found.meta == read_meta(folder)
    assert isinstance(found.ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.ids[0] = 1


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (Path.unlink, ["train.bin is missing"]),
        (replace_by_folder, ["train.bin is not a file"]),
        (lambda path: path.write_bytes(b"\0" * 178), ["178 bytes", "180"]),
        (lambda path: path.write_bytes(b"\0" * 182), ["182 bytes", "180"]),
        (lambda path: path.write_bytes(b"\0" * 360), ["360 bytes", "180"]),  # uint32
        (lambda path: path.write_bytes(b"\0" * 179), ["179 bytes", "uint16"]),
        (lambda path: path.write_bytes(b""), ["0 bytes", "180"]),
    ],
)
def test_a_damaged_file_is_named(
    folder: Path, damage: Callable[[Path], Any], expected: list[str]
) -> None:
    damage(folder / "train.bin")
    message = refused(folder)
    assert str(folder / "train.bin") in message
    for part in [*expected, "prepare_data.py --dataset shakespeare"]:
        assert part in message
    open_split(folder, "val", 8)


@pytest.mark.parametrize(("count", "fits"), [(0, False), (8, False), (9, True)])
def test_a_split_holds_a_block(tmp_path: Path, count: int, fits: bool) -> None:
    make_folder(tmp_path / "d", [1] * 20, [1] * count)
    if fits:
        assert len(open_split(tmp_path / "d", "val", 8).ids) == count
    else:
        message = refused(tmp_path / "d", "val")
        assert "empty" in message if count == 0 else "--block-size 8" in message


@pytest.mark.parametrize("offset", [0, 5, 6, 7, 19])
def test_an_id_outside_the_vocabulary_is_found(
    tmp_path: Path, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_SCAN", 6)
    ids = [VOCAB - 1] * 20
    make_folder(tmp_path / "d", ids, ids)
    open_split(tmp_path / "d", "train", 8)
    ids[offset] = VOCAB
    make_folder(tmp_path / "d", ids, ids)
    message = refused(tmp_path / "d")
    assert f"train.bin: token {offset} is {VOCAB}" in message


def test_the_smaller_vocabulary_counts(tmp_path: Path) -> None:
    make_folder(tmp_path / "d", [50257] * 20, [1] * 20, vocab=50257)
    with pytest.raises(UserError, match="50257, outside"):
        open_split(tmp_path / "d", "train", 8, vocab_size=50304)
    with pytest.raises(UserError, match="vocabulary of 1 ids"):
        open_split(tmp_path / "d", "val", 8, vocab_size=1)


def test_hashes_are_verified(folder: Path) -> None:
    verify_hashes(folder)
    content = bytearray((folder / "val.bin").read_bytes())
    content[3] ^= 1
    (folder / "val.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"val\.bin has changed.*--force"):
        verify_hashes(folder)


def test_a_pickle_beside_the_data_is_not_touched(folder: Path) -> None:
    clean = open_split(folder, "train", 8)
    (folder / "meta.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert open_split(folder, "train", 8).ids.tolist() == clean.ids.tolist()
