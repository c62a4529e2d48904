"""Rows 26 to 30: data that are damaged before a run, and while it reads them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2 import evaluate
from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.data import integrity
from gpt2.data.batches import BatchOrder, TrainBatches, calibration_batches, validation_batches
from gpt2.data.meta import META
from gpt2.data.prepare import shard_writer
from gpt2.data.tokenizer import Gpt2Tokenizer
from gpt2.data.tokens import open_split
from gpt2.training.recorder import RunRecorder
from tests.data.test_tokens import make_folder
from tests.run_dir.test_resume import assert_same
from tests.support import tiny

pytestmark = pytest.mark.slow

RUN = ("--max-steps", "8", "--checkpoint-interval", "1", "--dropout", "0.1")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data that no test changes."""
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "data"))


@pytest.fixture(scope="module")
def whole(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.train(original, run, *RUN) == Exit.OK
    return run


def swapped(content: bytes) -> bytes:
    """Other tokens of the same vocabulary: the first half after the second."""
    middle = len(content) // 4 * 2
    return content[middle:] + content[:middle]


def replace(path: Path, content: bytes) -> None:
    """Put another file in the place of this one, as most programs write files."""
    aside = path.with_suffix(".new")
    aside.write_bytes(content)
    aside.replace(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def rewrite_meta(folder: Path, *keys: str | int, value: object) -> None:
    path = folder / META
    raw = place = json.loads(path.read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        # Row 26
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "899 bytes, which is not a whole"),
        (lambda path: path.write_bytes(path.read_bytes()[:450]), "450 bytes, meta.json says 900"),
        (lambda path: path.write_bytes(b""), "0 bytes, meta.json says 900"),
        (Path.unlink, "is missing"),
        (to_folder, "is not a file"),
        # Row 27: as wide a number as it should be, its bytes the other way round; and wider ones
        (lambda path: np.fromfile(path, "<u2").astype(">u2").tofile(path), "token 0 is"),
        (lambda path: np.fromfile(path, "<u2").astype("<u4").tofile(path), "1,800 bytes"),
        (lambda path: np.fromfile(path, "<u2").astype("<i8").tofile(path), "3,600 bytes"),
        # Row 28
        (lambda path: path.write_bytes(path.read_bytes()[:-2] + b"\x60\xea"), "token 449 is 60000"),
        # No row, and worse than all of them: right in size and range
        (lambda path: path.write_bytes(swapped(path.read_bytes())), "has changed since it"),
    ],
    ids=["byte", "half", "empty", "missing", "folder", "endian", "u4", "i8", "id", "swapped"],
)  # fmt: skip
def test_no_step_is_run_on_damaged_data(
    damage: Callable[[Path], Any], said: str, data: Path, tmp_path: Path
) -> None:
    """Rows 26, 27, 28: the file, what it should be, and how to make it anew; no run is begun."""
    path = data / "text" / "train.bin"
    damage(path)
    with pytest.raises(UserError) as caught:
        tiny.train(data, tmp_path / "run", *RUN)
    assert caught.value.code == Exit.DATA
    (message,) = caught.value.messages
    assert message.startswith(str(path))
    assert said in message
    assert not (tmp_path / "run").exists()


def test_wide_tokens_under_a_meta_that_counts_their_halves(data: Path, tmp_path: Path) -> None:
    """Row 27: uint32 read as uint16 is twice as many ids, every other one zero."""
    path = data / "text" / "train.bin"
    np.fromfile(path, "<u2").astype("<u4").tofile(path)
    rewrite_meta(path.parent, "splits", "train", "tokens", value=900)
    with pytest.raises(UserError, match=r"train\.bin has changed since it was made") as caught:
        tiny.train(data, tmp_path / "run", *RUN)
    assert caught.value.code == Exit.DATA


@pytest.mark.parametrize(
    ("padded", "largest", "said"),
    [
        (False, 50257, "token 20 is 50257, outside the vocabulary of 50,257 ids"),
        (False, 50303, "token 20 is 50303, outside the vocabulary of 50,257 ids"),
        (True, 50303, "vocab_size is not that of tokenizer 'gpt2'"),
    ],
)
def test_a_padded_vocabulary_is_no_licence(
    padded: bool, largest: int, said: str, tmp_path: Path
) -> None:
    """Row 28: models pad 50257 ids to 50304; in data the 47 more stand for nothing."""
    ids = [50256] * 20 + [largest]
    make_folder(tmp_path / "text", ids, [1] * 20)
    size = {"vocab_size": 50304} if padded else {}
    rewrite_meta(tmp_path / "text", "tokenizer", value=Gpt2Tokenizer().describe() | size)
    with pytest.raises(UserError) as caught:
        tiny.train(tmp_path, tmp_path / "run", *RUN, "--tokenizer", "gpt2")
    assert caught.value.code == Exit.DATA
    assert said in str(caught.value)
    assert str(tmp_path / "text") in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("split", "tokens", "said"),
    [
        ("train", tiny.BLOCK, "holds 8 tokens, and a block of --block-size 8 needs 9: lower"),
        ("train", 0, "is empty: its text is too short for a train split"),
        ("val", 0, "is empty: its text is too short for a val split"),
        ("val", 1, "holds 1 tokens"),
    ],
)
def test_a_split_that_is_too_short(
    split: str, tokens: int, said: str, data: Path, tmp_path: Path
) -> None:
    """Row 30: shorter than a block and its last target; an empty split."""
    path = data / "text" / f"{split}.bin"
    path.write_bytes(path.read_bytes()[: 2 * tokens])
    rewrite_meta(path.parent, "splits", split, "tokens", value=tokens)
    with pytest.raises(UserError) as caught:
        tiny.train(data, tmp_path / "run", *RUN)
    assert caught.value.code == Exit.DATA
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "run").exists()


INFINITE, DEEP, LONG = "1e999", "[" * 100_000, "9" * 5000


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("splits", "train", "tokens"), -1),
        (("splits", "train", "tokens"), 10**30),
        (("splits", "train", "tokens"), 450.0),
        (("splits", "train", "tokens"), "450"),
        (("splits", "train", "tokens"), True),
        (("splits", "train", "tokens"), float("inf")),
        (("splits", "train", "bytes"), 0),  # would be divided by after the last step
        (("splits", "train"), []),
        (("splits", "train"), "train"),
        (("splits", "val"), None),
        (("splits", "val", "shards"), 5),
        (("splits", "val", "shards"), [[]]),
        (("splits",), 3),
        (("tokenizer", "vocab_size"), 0),
        (("tokenizer", "vocab_size"), 10**9),
        (("tokenizer", "vocab_size"), float("inf")),
        (("tokenizer", "vocab_size"), "22"),
        (("tokenizer",), []),
        (("tokenizer", "characters"), "abc"),
        (("tokenizer", "characters"), None),
        (("tokenizer", "name"), "t5"),
        (("source",), {"address": ""}),
        (("data_hash",), None),
        (("dtype",), ["uint16"]),
        (("format",), 1.5),
        (("format",), 99),
    ],
    ids=str,
)
def test_a_meta_of_wrong_values(
    keys: tuple[str, ...], value: object, data: Path, tmp_path: Path
) -> None:
    """Rows 27, 30: wrong types, negative and huge numbers: one line that names the file."""
    rewrite_meta(data / "text", *keys, value=value)
    with pytest.raises(UserError) as caught:
        tiny.train(data, tmp_path / "run", *RUN)
    assert caught.value.code == Exit.DATA
    (message,) = caught.value.messages
    assert str(data / "text") in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content",
    [INFINITE, DEEP, LONG, f'{{"format": {LONG}}}', '{"format": 1}', "null", "\0" * 100],
    ids=["number", "deep", "long", "long in it", "keys", "null", "zeroes"],
)
def test_a_meta_that_is_no_description(content: str, data: Path, tmp_path: Path) -> None:
    """Row 27: JSON that Python's reader itself gives up on, and JSON of something else."""
    path = data / "text" / META
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        tiny.train(data, tmp_path / "run", *RUN)
    assert caught.value.code == Exit.DATA
    assert str(path) in str(caught.value)


def train_disturbed(
    monkeypatch: pytest.MonkeyPatch,
    data: Path,
    run: Path,
    disturb: Callable[[], Any],
    step: int = 3,
) -> int:
    """Train in this process; `disturb` is called after `step`."""
    original = RunRecorder.after_step

    def after_step(self: RunRecorder, done: Any) -> bool:
        going = original(self, done)
        if self.progress.step == 3:
            disturb()
        return going

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "after_step", after_step)
        return tiny.train(data, run, *RUN)


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "shrunk": (lambda path: os.truncate(path, path.stat().st_size // 2), "bytes instead of"),
    "grown": (lambda path: os.truncate(path, path.stat().st_size + 2), "bytes instead of"),
    "deleted": (Path.unlink, "it cannot be read (No such file"),
    "replaced": (lambda path: replace(path, swapped(path.read_bytes())), "its SHA-256 is"),
    "written over": (lambda path: path.write_bytes(swapped(path.read_bytes())), "its SHA-256 is"),
}


@pytest.mark.parametrize(
    ("name", "change"), [*(("train.bin", name) for name in CHANGES), ("val.bin", "shrunk")]
)
def test_a_file_that_changes_under_a_run_ends_it(
    name: str, change: str, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 29: exit 3 naming the file, the last checkpoint good; with the file back it goes on."""
    path, run = data / "text" / name, tmp_path / "run"
    content = path.read_bytes()
    damage, said = CHANGES[change]
    with pytest.raises(UserError) as caught:
        train_disturbed(monkeypatch, data, run, lambda: damage(path))
    assert caught.value.code == Exit.DATA
    (message,) = caught.value.messages
    assert message.startswith(f"{path} has changed while it was in use: ")
    assert said in message
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", Exit.DATA)
    assert message in (run / "log.txt").read_text()
    last = store.load_last(run / "checkpoints", pytest.fail)
    assert last is not None
    assert 3 <= last.step < 8 or name == "val.bin"
    way = f"the same command with --run-dir {run}"
    assert f"put it back as it was; then resume from step {last.step}: {way}" in message
    assert not (run / "summary.json").exists()
    replace(path, content)
    assert tiny.train(data, run, *RUN) == Exit.OK
    assert_same(run, whole)


@pytest.mark.parametrize(
    "change", [lambda path: path.touch(), lambda path: replace(path, path.read_bytes())]
)
def test_a_file_of_the_same_content_is_no_change(
    change: Callable[[Path], Any], data: Path, whole: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Row 29: other times or another inode are hashed, once, and the run goes on."""
    path = data / "text" / "train.bin"
    hashed: list[Path] = []
    original = integrity.sha256_of
    monkeypatch.setattr(integrity, "sha256_of", lambda p: hashed.append(p) or original(p))
    disturbed = train_disturbed(monkeypatch, data, tmp_path / "run", lambda: change(path))
    assert disturbed == Exit.OK
    assert hashed == [path]
    assert_same(tmp_path / "run", whole)


#: train.py, whose training file is cut to nothing after the third step.
CUT = """
import os, sys
from gpt2 import train
from gpt2.session import session
from gpt2.config.entry import run_entry
from gpt2.training.recorder import RunRecorder
original = RunRecorder.after_step
def after_step(self, done):
    going = original(self, done)
    if self.progress.step == 3:
        os.truncate(sys.argv[1], 0)
    return going
RunRecorder.after_step = after_step
run_entry("train.py", lambda: train.main(sys.argv[2:]))
"""


def test_a_file_that_is_cut_short_under_the_map_is_no_sigbus(tmp_path: Path) -> None:
    """Row 29: of the map no page is left, so that a read without a look before it is deadly."""
    data, run = tiny.make_data(tmp_path / "data", characters=20_000), tmp_path / "run"
    path = data / "text" / "train.bin"
    more = ("--max-steps", "40", "--checkpoint-interval", "1")
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(path), *tiny.flags(data, run, *more)],
        cwd=tiny.REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.DATA, (done.returncode, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"train.py: error: {path} has changed while it was in use: it has 0 byt")
    last = store.load_last(run / "checkpoints", pytest.fail)
    assert last is not None
    assert last.step >= 3


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data in shards of 100 tokens; a sequence of 8 begins on every eighth."""
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "SHARD", 100)
        folder = tiny.make_data(tmp_path / "shards") / "text"
    assert (folder / "train-00004.bin").exists()
    return folder


def read_ahead(tokens: Any) -> None:
    order = BatchOrder(block_size=8, batch_size=14, gradient_accumulation=1, seed=1)
    with TrainBatches(tokens, order, "cpu", num_workers=2) as batches:
        for step in range(4):
            batches.train(step, 0)


READERS: dict[str, Callable[[Any], Any]] = {
    "training": lambda tokens: TrainBatches(tokens, BatchOrder(8, 56, 1, 1), "cpu", 0).train(0, 0),
    "ahead": read_ahead,
    "evaluation": lambda tokens: list(validation_batches(tokens, 8, 4, "cpu")),
    "calibration": lambda tokens: list(calibration_batches(tokens, 8, 4, 56, 1, "cpu")),
    "prompt": lambda tokens: tokens.first(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("number", [0, 2, 4])
def test_every_reader_looks_at_the_shards_it_reads(number: int, reader: str, shards: Path) -> None:
    """Row 29: also threads that read ahead, whose error comes with the batch it befell."""
    tokens = open_split(shards, "train", 8)
    READERS[reader](tokens)
    os.truncate(shards / f"train-{number:05}.bin", 10)
    if reader == "prompt" and number:
        READERS[reader](tokens)  # it is in the first
        return
    with pytest.raises(UserError, match=rf"train-{number:05}\.bin has changed while") as caught:
        READERS[reader](tokens)
    assert caught.value.code == Exit.DATA


def test_only_the_shards_of_a_batch_are_looked_at(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 29: a batch costs as many calls of stat() as it has files, and no more."""
    tokens = open_split(shards, "train", 8)
    looked: list[str] = []
    state = integrity.hash_cache.state
    monkeypatch.setattr(integrity.hash_cache, "state", lambda p: looked.append(p.name) or state(p))
    tokens.files.check([0, 8, 91], 9)  # the last id is the hundredth
    assert looked == ["train-00000.bin"]
    looked.clear()
    tokens.files.check([92, 310], 9)  # crosses into the second
    assert sorted(looked) == ["train-00000.bin", "train-00001.bin", "train-00003.bin"]


def test_an_evaluation_by_itself_sees_it_too(
    whole: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 29: evaluate.py, whose data are cut short when they are open."""
    path = data / "text" / "val.bin"

    def cut_first(*arguments: Any) -> Any:
        os.truncate(path, 20)
        return validation_batches(*arguments)

    monkeypatch.setattr("gpt2.data.batches.validation_batches", cut_first)
    with pytest.raises(UserError, match=r"val\.bin has changed while it was in use") as caught:
        evaluate.main(["--run", str(whole), "--data-dir", str(data)])
    assert caught.value.code == Exit.DATA
