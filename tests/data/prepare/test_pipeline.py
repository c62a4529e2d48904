"""Preparation at length: the same bytes for any workers, cuts and kills; and what it refuses."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpora.text import open_corpus
from gpt2.data.corpus import Document, Request
from gpt2.data.meta import META, NEEDED, UNFINISHED, Meta, read_meta
from gpt2.data.prepare import chunking, encoding, shard_writer, store
from gpt2.data.prepare.pipeline import Settings, already_prepared, prepare
from gpt2.data.prepare.progress import Bar, progress_line
from gpt2.data.splits import SPLITS, split_of
from gpt2.data.tokenizer import Gpt2Tokenizer
from gpt2.data.tokens import open_split, verify_hashes
from gpt2.prepare_data import main

ROOT = Path(__file__).resolve().parents[3]
GPT2 = Gpt2Tokenizer()
END = 50256


def write_corpus(folder: Path, lines: int = 300) -> Path:
    """Write a .jsonl of small and empty documents, and a .txt, which is one long document."""
    rng = random.Random(4)
    words = [" the", " caf\xe9", "\n\n", " \u4e2d\u6587", "...", " 1234", " <|endoftext|>", " word"]
    folder.mkdir()
    texts = ["".join(rng.choices(words, k=rng.randrange(0, 40))) for _ in range(lines)]
    encoded = [json.dumps({"text": text}) for text in texts]
    (folder / "a.jsonl").write_text("\n".join(encoded) + "\n", encoding="utf-8")
    (folder / "b.txt").write_text("".join(rng.choices(words, k=3000)), encoding="utf-8")
    return folder


def expected(folder: Path) -> dict[str, list[int]]:
    """The ids of that corpus by one call of tiktoken for each document."""
    ids: dict[str, list[int]] = {split: [] for split in SPLITS}
    texts = [json.loads(line)["text"] for line in (folder / "a.jsonl").read_text().splitlines()]
    documents = [(split_of(text, 10), text) for text in texts]
    whole = (folder / "b.txt").read_text(encoding="utf-8")
    border = int(0.9 * len(whole))
    middle = border + -(-(len(whole) - border) // 2)
    documents += zip(SPLITS, (whole[:border], whole[border:middle], whole[middle:]), strict=True)
    for split, text in documents:
        if text:
            ids[split] += [*GPT2._encoding.encode_ordinary(text), END]
    return ids


def run(corpus: Path, folder: Path, **settings: Any) -> Meta:
    opened = open_corpus(Request(corpus, "gpt2", folder))
    return prepare(opened, folder, "text", settings=Settings(**settings))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == Exit.DATA
    (message,) = caught.value.messages
    assert "\n" not in message
    return message


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make batches, shards and the journal's distance small enough for a small corpus."""
    monkeypatch.setattr(chunking, "BATCH", 500)
    monkeypatch.setattr(shard_writer, "SHARD", 1500)
    monkeypatch.setattr(store, "JOURNALED", 1000)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("batch", [50, 700, 1 << 20])
def test_workers_and_batches_change_nothing(
    workers: int, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "BATCH", batch)
    corpus = write_corpus(tmp_path / "in")
    meta = run(corpus, tmp_path / "d", workers=workers)
    for split, ids in expected(corpus).items():
        assert (tmp_path / "d" / f"{split}.bin").read_bytes() == np.array(ids, "<u2").tobytes()
        assert open_split(tmp_path / "d", split, 8).ids[:].tolist() == ids
    assert verify_hashes(tmp_path / "d") == meta
    assert meta.source["empty_documents"] > 0
    assert set(contents(tmp_path / "d")) == {*(f"{split}.bin" for split in SPLITS), META, ".lock"}


@pytest.mark.usefixtures("small")
def test_shards_hold_the_same_ids(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "in")
    meta = run(corpus, tmp_path / "d", workers=2)
    for split, ids in expected(corpus).items():
        found = open_split(tmp_path / "d", split, 8)
        assert found.ids[:].tolist() == ids
    assert len(meta.splits["train"].shards) > 3
    assert json.loads((tmp_path / "d" / META).read_text())["format"] == 2
    assert not (tmp_path / "d" / UNFINISHED).exists()
    assert already_prepared(tmp_path / "d", "text", "gpt2", corpus) == meta


@pytest.mark.usefixtures("small")
def test_few_batches_are_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, written, ahead = [0], [0], []
    corpus = write_corpus(tmp_path / "in")
    opened = open_corpus(Request(corpus, "gpt2", tmp_path))

    def counted() -> Iterator[chunking.Batch]:
        for batch in chunking.batches(opened, GPT2, chunking.Position()):
            read[0] += 1
            ahead.append(read[0] - written[0])
            yield batch

    for _ in encoding.encode_batches(counted(), GPT2.encode, None, 3):
        written[0] += 1
    assert read[0] == written[0] > 20
    assert max(ahead) == 2 * 3 + 1 - 1


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_of_encoding_comes_out(workers: int, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "in")
    opened = open_corpus(Request(corpus, "gpt2", tmp_path))

    def fail(text: str) -> Any:
        raise UserError("bad", code=Exit.DATA)

    found = encoding.encode_batches(
        chunking.batches(opened, GPT2, chunking.Position()), fail, None, workers
    )
    assert refused(lambda: list(found)) == "bad"


CHILD = """
import sys
from pathlib import Path
from gpt2.data.prepare import chunking as cutting, shard_writer, store
from gpt2.data.corpora.text import open_corpus
from gpt2.data.corpus import Request
from gpt2.data.prepare.pipeline import Settings, prepare
cutting.BATCH, shard_writer.SHARD, store.JOURNALED = 500, 1500, 1000
corpus, folder, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
opened = open_corpus(Request(corpus, "gpt2", folder))
prepare(opened, folder, "text", settings=Settings(workers), say=print)
"""


def child(corpus: Path, folder: Path, fault: str, workers: int = 2) -> int:
    command = [sys.executable, "-c", CHILD, str(corpus), str(folder), str(workers)]
    environment = {**os.environ, "GPT2_FAULT": fault}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("fault", "goes_on"),
    [
        ("data.write:kill:2", False),
        ("data.write:kill:40", True),
        ("data.journal:kill", True),
        ("data.complete:kill", True),
        ("data.rename:kill:3", False),
        ("data.meta:kill", False),
    ],
)
def test_kill_9_and_on_gives_the_same_bytes(fault: str, goes_on: bool, tmp_path: Path) -> None:
    corpus, folder, whole = write_corpus(tmp_path / "in"), tmp_path / "d", tmp_path / "whole"
    run(corpus, whole, workers=1)
    assert child(corpus, folder, fault) == -signal.SIGKILL
    refused(lambda: read_meta(folder))
    said: list[str] = []
    opened = open_corpus(Request(corpus, "gpt2", folder))
    starts: list[int] = []
    prepare(opened, folder, "text", lambda done, _: starts.append(done), say=said.append)
    assert contents(folder) == contents(whole)
    said = [line for line in said if "<|endoftext|>" not in line]  # which the text has
    assert [("resuming an interrupted" in line) for line in said] == [True] * goes_on
    if goes_on:
        assert starts[0] > 500
    verify_hashes(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_killed_again_and_again(tmp_path: Path) -> None:
    corpus, folder, whole = write_corpus(tmp_path / "in"), tmp_path / "d", tmp_path / "whole"
    run(corpus, whole)
    for _ in range(2):
        assert child(corpus, folder, "data.journal:kill:2", workers=3) == -signal.SIGKILL
    run(corpus, folder, workers=2)
    assert contents(folder) == contents(whole)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus, and the data folder of a preparation of it that was killed."""
    corpus = write_corpus(tmp_path_factory.mktemp("killed") / "in")
    assert child(corpus, corpus.parent / "d", "data.journal:kill:3") == -signal.SIGKILL
    return corpus, corpus.parent / "d"


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("change", ["text", "limit"])
def test_another_corpus_starts_over(change: str, killed: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, folder = killed[0], tmp_path / "d"
    shutil.copytree(killed[1], folder)
    before = (corpus / "b.txt").read_bytes()
    said: list[str] = []
    settings = Settings(max_tokens=10**6 if change == "limit" else None)
    try:
        if change == "text":
            (corpus / "b.txt").write_bytes(before + b" more")
        opened = open_corpus(Request(corpus, "gpt2", folder))
        prepare(opened, folder, "text", settings=settings, say=said.append)
        run(corpus, tmp_path / "whole", max_tokens=settings.max_tokens)
    finally:
        (corpus / "b.txt").write_bytes(before)
    assert contents(folder) == contents(tmp_path / "whole")
    assert sum("another corpus" in line for line in said) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["train-00000.bin", "train-00001.bin", "journal.json"])
def test_a_damaged_beginning_is_not_gone_on_with(
    name: str, killed: tuple[Path, Path], tmp_path: Path
) -> None:
    corpus, folder = killed[0], tmp_path / "d"
    shutil.copytree(killed[1], folder)
    path = folder / UNFINISHED / name
    path.write_bytes(path.read_bytes()[:50])
    said: list[str] = []
    prepare(open_corpus(Request(corpus, "gpt2", folder)), folder, "text", say=said.append)
    run(corpus, tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")
    assert not any("resuming" in line for line in said)
    assert any("damaged" in line for line in said) == (name != "journal.json")


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_an_error_keeps_what_was_journaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, folder = write_corpus(tmp_path / "in"), tmp_path / "d"
    calls = [0]

    def fail(name: str) -> None:
        calls[0] += name == "data.write"
        if calls[0] > 30:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr("gpt2.config.faults.failpoint", fail)
    assert "No space left" in refused(lambda: run(corpus, folder))
    assert (folder / UNFINISHED / "journal.json").exists()
    monkeypatch.setattr("gpt2.config.faults.failpoint", lambda _: None)
    run(corpus, folder)
    run(corpus, tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_old_shards_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(tmp_path / "in")
    run(corpus, tmp_path / "d")
    monkeypatch.setattr(shard_writer, "SHARD", 10**6)
    run(corpus, tmp_path / "d")
    assert set(contents(tmp_path / "d")) == {*(f"{split}.bin" for split in SPLITS), META, ".lock"}


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_leaves_no_process(tmp_path: Path) -> None:
    corpus = tmp_path / "in.txt"
    corpus.write_text("a few words, and then some more of them.\n" * 200_000)
    command = [sys.executable, "gpt2/prepare_data.py", "--input", str(corpus), "--workers", "3"]
    process = subprocess.Popen(
        [*command, "--data-dir", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "text" / UNFINISHED / "train-00000.bin").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (Exit.INTERRUPTED, "")
    assert err.startswith("prepare_data.py: error: interrupted; the same command continues")
    assert err.count("\n") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert set(contents(tmp_path / "text")) == {".lock"}


class Stories:
    """A corpus of documents of ten tokens, of which every fifth is for validation."""

    separated = True
    text_bytes = None
    splits = NEEDED

    def __init__(self, count: int) -> None:
        self.source: dict[str, Any] = {"address": "a test"}
        self._count = count

    def tokenizer(self) -> Gpt2Tokenizer:
        return GPT2

    def documents(self, skip: int = 0) -> Iterator[Document]:
        for number in range(skip, self._count):
            yield Document("val" if number % 5 == 3 else "train", [" a" * 9])
        self.source["sha256"] = "known at the end"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batch", [10, 100, 1 << 20])
@pytest.mark.parametrize(
    ("limit", "train", "val"),
    [(1, 30, 10), (30, 30, 10), (31, 40, 10), (70, 70, 10), (71, 80, 20), (9999, 400, 100)],
)
def test_a_limit_ends_at_a_document(
    workers: int, batch: int, limit: int, train: int, val: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(chunking, "BATCH", batch)
    settings = Settings(workers, limit)
    meta = prepare(Stories(50), tmp_path, "text", settings=settings)
    assert {name: split.tokens for name, split in meta.splits.items()} == {
        "train": train,
        "val": val,
    }
    assert meta.source["max_tokens"] == limit
    for split in ("train", "val"):
        assert open_split(tmp_path, split, 4).ids[-1] == END
    assert already_prepared(tmp_path, "text", None, None, limit) == meta
    assert already_prepared(tmp_path, "text", None, None) == meta
    message = refused(lambda: already_prepared(tmp_path, "text", None, None, limit + 1))
    assert f"--max-tokens {limit}, not {limit + 1}" in message


def test_the_source_is_read_after_the_text(tmp_path: Path) -> None:
    meta = prepare(Stories(20), tmp_path, "text")
    assert meta.source == {"address": "a test", "sha256": "known at the end"}
    assert "the whole corpus" in refused(
        lambda: already_prepared(tmp_path, "text", None, None, 100)
    )


def test_a_disk_too_small_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, folder = write_corpus(tmp_path / "in"), tmp_path / "d"
    size = sum(path.stat().st_size for path in corpus.iterdir())
    meta = run(corpus, tmp_path / "whole")
    written = 2 * sum(split.tokens for split in meta.splits.values())
    usage = namedtuple("usage", "total used free")
    for free, fits in ((written, False), (4 * size, True)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage(0, 0, free))
        if fits:
            run(corpus, folder)
            continue
        message = refused(lambda: run(corpus, folder))
        assert str(folder) in message
        assert f"{free / 1e6:,.1f} MB are free" in message
        assert "--data-dir" in message
        assert set(contents(folder)) == {".lock"}
    # What is asked for is enough, and not much more than that.
    asked: list[int] = []
    monkeypatch.setattr(
        "gpt2.data.prepare.pipeline.check_room", lambda _, needed: asked.append(needed)
    )
    run(corpus, tmp_path / "again")
    assert written < asked[0] < 2 * written
    monkeypatch.undo()
    # A limit on the tokens is one on the room.
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 3000))
    run(corpus, folder, max_tokens=1000)


def test_a_text_without_blanks_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "BATCH", 100)
    monkeypatch.setattr(chunking, "LONGEST", 1600)
    path = tmp_path / "in.jsonl"
    lines = [{"text": "good text " * 20}, {"text": "x" * 90 + " " + "y" * 9000}]
    path.write_text("\n".join(map(json.dumps, lines)))
    message = refused(lambda: run(path, tmp_path / "d", workers=2))
    assert message.startswith(f"{path}:2: no blank in ")
    assert "from character 90 (byte 90) on" in message
    assert set(contents(tmp_path / "d")) == {".lock"}


def test_a_vocabulary_beyond_16_bits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = Gpt2Tokenizer()
    corpus = Stories(20)
    monkeypatch.setattr(corpus, "tokenizer", lambda: wide)
    wide.vocab_size = 65536
    prepare(corpus, tmp_path / "d", "text")
    wide.vocab_size = 65537
    assert "65,537 ids do not fit" in refused(lambda: prepare(corpus, tmp_path / "e", "text"))


def test_invalid_utf_8_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"good text " * 20 + b"\xff")
    message = refused(lambda: run(path, tmp_path / "d"))
    assert f"{path}: byte 200 is not UTF-8" in message


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "in")
    command = ["--input", str(corpus), "--data-dir", str(tmp_path)]
    with pytest.raises(UserError, match="tiktoken"):
        main([*command, "--tokenizer-backend", "tiktok"])
    with pytest.raises(UserError, match="--workers"):
        main([*command, "--workers", "-1"])
    with pytest.raises(UserError, match="--max-tokens"):
        main([*command, "--max-tokens", "0"])
    with pytest.raises(UserError, match="--max-tokens has no effect on --adopt"):
        main(["--adopt", str(corpus), "--data-dir", str(tmp_path), "--max-tokens", "5"])
    more = ["--workers", "2", "--max-tokens", "2000", "--tokenizer-backend", "tiktoken"]
    assert main([*command, *more]) == Exit.OK
    shown = capsys.readouterr()
    assert "prepared in" in shown.out
    (line,) = shown.err.splitlines()
    assert "<|endoftext|> occurs" in line
    assert 2000 <= read_meta(tmp_path / "text").splits["train"].tokens < 2100
    assert main(command) == Exit.OK
    assert "already prepared" in capsys.readouterr().out


def test_progress_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("gpt2.data.prepare.progress.time.monotonic", lambda: now[0])
    with Bar() as bar:
        for second, done in enumerate(range(2_000_000, 26_000_000, 1_000_000)):
            now[0] = float(second)
            bar.reached(done, 100_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "12 MB of text of 100, 1.0 MB/s, about 88 s left",
        "22 MB of text of 100, 1.0 MB/s, about 78 s left",
    ]
    assert progress_line(5_000_000, None, 5_000_000, 2.0) == "5 MB of text, 2.5 MB/s"
    assert progress_line(0, 100, 0, 0.0) == "0 MB of text of 0, 0.0 MB/s"
