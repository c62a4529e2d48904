"""Shards: read as one array; each is checked, and large files are read whole only once."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data import hash_cache
from gpt2.data.batches import BatchOrder, TrainBatches, validation_batches
from gpt2.data.memmap import Ids, ShardedIds
from gpt2.data.meta import META, Meta, read_meta
from gpt2.data.prepare import shard_writer
from gpt2.data.prepare.shard_writer import ShardWriter
from gpt2.data.tokens import open_split, verify_hashes

VOCAB = 500
IDS = np.random.default_rng(3).integers(0, VOCAB, 1000).astype(np.uint16)
LENGTHS = np.arange(VOCAB, dtype=np.int64) % 7


def write(folder: Path, ids: Ids, *, shard: int, seed: int = 0) -> Meta:
    """Write one and the same split twice, in batches of random sizes, as a data folder."""
    rng = random.Random(seed)
    folder.mkdir(exist_ok=True)
    splits = {}
    for split in ("train", "val"):
        writer = ShardWriter(folder, split, LENGTHS)
        writer._size = shard
        rest = ids
        while len(rest):
            size = rng.randrange(0, 90)
            writer.write(rest[:size])
            rest = rest[size:]
        splits[split] = writer.finish()
        if not splits[split].shards:
            (folder / f"{split}-00000.bin").rename(folder / f"{split}.bin")
    tokenizer = {"name": "char", "vocab_size": VOCAB, "end_of_text": None}
    meta = Meta("text", tokenizer, {"address": "a test", "sha256": "0"}, splits)
    (folder / META).write_text(meta.to_json(), encoding="utf-8")
    return meta


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_split(folder, "train", 8)
    assert caught.value.code == Exit.DATA
    (message,) = caught.value.messages
    return message


def test_parts_are_one_array() -> None:
    rng = random.Random(5)
    for _ in range(30):
        borders = sorted(rng.choices(range(len(IDS) + 1), k=rng.randrange(0, 6)))
        parts = np.split(IDS, borders)
        many = ShardedIds(parts)
        assert len(many) == len(IDS)
        for _ in range(50):
            start, stop = rng.randrange(-1100, 1100), rng.randrange(-1100, 1100)
            assert np.array_equal(many[start:stop], IDS[start:stop])
            place = rng.randrange(-1000, 1000)
            assert many[place] == IDS[place]
        assert np.array_equal(many[:], IDS)
    with pytest.raises(IndexError):
        many[1000]
    with pytest.raises(ValueError, match="step 1"):
        many[::2]


def test_a_slice_of_one_part_is_no_copy() -> None:
    first, second = IDS[:500].copy(), IDS[500:].copy()
    many = ShardedIds([first, second])
    assert np.shares_memory(many[10:500], first)
    assert np.shares_memory(many[500:510], second)
    assert not np.shares_memory(many[499:501], first)


@pytest.mark.parametrize("shard", [100, 300, 999, 1000, 5000])
def test_shards_do_not_depend_on_the_batches(shard: int, tmp_path: Path) -> None:
    meta = write(tmp_path / "a", IDS, shard=shard)
    assert write(tmp_path / "b", IDS, shard=shard, seed=1) == meta == read_meta(tmp_path / "a")
    split = meta.splits["train"]
    assert (split.tokens, split.bytes) == (1000, int(LENGTHS[IDS].sum()))
    assert split.sha256 == hashlib.sha256(IDS.tobytes()).hexdigest()
    files = split.files("train")
    assert [file.tokens for file in files] == [
        min(shard, 1000 - start) for start in range(0, 1000, shard)
    ]
    for start, file in zip(range(0, 1000, shard), files, strict=True):
        content = (tmp_path / "a" / file.file).read_bytes()
        part = IDS[start : start + shard]
        assert content == part.tobytes()
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert file.bytes == int(LENGTHS[part].sum())
    assert verify_hashes(tmp_path / "a") == meta
    raw = json.loads((tmp_path / "a" / META).read_text())
    assert raw["format"] == (2 if shard < 1000 else 1)
    assert ("shards" in raw["splits"]["train"]) == (shard < 1000)
    assert files[0].file == ("train-00000.bin" if shard < 1000 else "train.bin")


def test_batches_from_shards_are_those_from_one_file(tmp_path: Path) -> None:
    write(tmp_path / "one", IDS, shard=5000)
    write(tmp_path / "many", IDS, shard=90)
    found = []
    for folder in ("one", "many"):
        tokens = open_split(tmp_path / folder, "train", 8)
        assert len(tokens.ids) == 1000
        order = BatchOrder(block_size=8, batch_size=4, gradient_accumulation=1, seed=1)
        with TrainBatches(tokens, order, "cpu", num_workers=1) as batches:
            train = [x.tolist() for step in range(70) for x in batches.train(step, 0)]
        val = [x.tolist() for pair in validation_batches(tokens, 8, 4, "cpu") for x in pair]
        found.append((train, val))
    assert found[0] == found[1]


def test_a_shard_that_is_cut_short_is_named(tmp_path: Path) -> None:
    write(tmp_path, IDS, shard=300)
    path = tmp_path / "train-00001.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    message = refused(tmp_path)
    assert f"{path} has 598 bytes, meta.json says 600" in message
    path.unlink()
    assert f"{path} is missing" in refused(tmp_path)
    path.write_bytes(content[:-1] + b"\xff")
    assert f"{path}: token 299 is" in refused(tmp_path)
    with pytest.raises(UserError, match=r"train-00001\.bin has changed"):
        verify_hashes(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("file", "../x.bin"), ("tokens", 299), ("tokens", -1), ("sha256", None)]
)
def test_shards_that_contradict_themselves(key: str, value: object, tmp_path: Path) -> None:
    write(tmp_path, IDS, shard=300)
    raw = json.loads((tmp_path / META).read_text())
    if value is None:
        del raw["splits"]["train"]["shards"][1][key]
    else:
        raw["splits"]["train"]["shards"][1][key] = value
    (tmp_path / META).write_text(json.dumps(raw))
    assert "meta.json is incomplete or damaged" in refused(tmp_path)


@pytest.mark.slow
def test_a_writer_goes_on_where_it_was(tmp_path: Path) -> None:
    for done in (0, 1, 299, 300, 301, 600, 1000):
        folder = tmp_path / str(done)
        folder.mkdir()
        first, second = (ShardWriter(folder, "train", LENGTHS) for _ in range(2))
        first._size = second._size = 300
        first.write(IDS[:done])
        first.sync()
        shards = first.shards()
        first.write(IDS[:77])  # after the journal, before the end
        first.close()
        second.restore(shards)
        assert second.tokens == done
        second.write(IDS[done:])
        assert second.finish() == write(tmp_path / "whole", IDS, shard=300).splits["train"]
        for path in (tmp_path / "whole").glob("train-*.bin"):
            assert (folder / path.name).read_bytes() == path.read_bytes()


def test_a_writer_notices_what_was_changed(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", LENGTHS)
    writer.write(IDS)
    writer.close()
    path = tmp_path / "train-00000.bin"
    content = path.read_bytes()
    for bad in (content[:-1], content[:-1] + b"\xff"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"train-00000\.bin is not what"):
            ShardWriter(tmp_path, "train", LENGTHS).restore(writer.shards())


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file for a large one, whose last change is long past."""
    monkeypatch.setattr(hash_cache, "_FROM", 0)
    monkeypatch.setattr(hash_cache, "_SETTLED", -1.0)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record which files are read whole."""
    found: list[str] = []
    for name in ("sha256_of", "_largest_id"):
        original = getattr(__import__("gpt2.data.tokens", fromlist=[name]), name)

        def spy(path: Path, original: object = original, name: str = name) -> object:
            found.append(f"{name} {path.name}")
            return original(path)  # type: ignore[operator]

        monkeypatch.setattr(f"gpt2.data.tokens.{name}", spy)
    return found


@pytest.mark.usefixtures("large")
def test_large_files_are_read_whole_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, IDS, shard=600)
    found = reads(monkeypatch)
    for _ in range(2):
        verify_hashes(tmp_path)
        open_split(tmp_path, "train", 8)
    names = ["train-00000.bin", "train-00001.bin", "val-00000.bin", "val-00001.bin"]
    expected = [f"sha256_of {name}" for name in names] + [f"_largest_id {n}" for n in names[:2]]
    assert found == expected
    # A smaller vocabulary needs no new scan to be refused, and says where.
    with pytest.raises(UserError, match=r"train-00000\.bin: token \d+ is 4"):
        open_split(tmp_path, "train", 8, vocab_size=400)


@pytest.mark.usefixtures("large")
def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, IDS, shard=600)
    verify_hashes(tmp_path)
    path = tmp_path / "train-00001.bin"
    times, content = path.stat(), bytearray(path.read_bytes())
    content[4] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # dated back
    found = reads(monkeypatch)
    with pytest.raises(UserError, match=r"train-00001\.bin has changed"):
        verify_hashes(tmp_path)
    assert found == ["sha256_of train-00001.bin"]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("content", ["", "[]", "{", '{"train-00000.bin": 3}', '{"x": {}}'])
def test_a_damaged_memory_is_none(content: str, tmp_path: Path) -> None:
    write(tmp_path, IDS, shard=600)
    (tmp_path / hash_cache.NAME).write_text(content)
    verify_hashes(tmp_path)
    assert json.loads((tmp_path / hash_cache.NAME).read_text())["train-00000.bin"]["sha256"]


@pytest.mark.usefixtures("large")
def test_what_has_just_changed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_cache, "_SETTLED", 1000.0)
    write(tmp_path, IDS, shard=600)
    verify_hashes(tmp_path)
    assert not (tmp_path / hash_cache.NAME).exists()


def test_small_files_leave_no_memory(tmp_path: Path) -> None:
    write(tmp_path, IDS, shard=shard_writer.SHARD)
    verify_hashes(tmp_path)
    open_split(tmp_path, "train", 8)
    assert {path.name for path in tmp_path.iterdir()} == {"train.bin", "val.bin", META}
