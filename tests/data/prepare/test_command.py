"""Preparation: the right ids whatever the corpus, in bounded memory; and what can be adopted."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpora import shakespeare, shakespeare_char, text
from gpt2.data.corpus import Document, Request, WholeText
from gpt2.data.meta import NEEDED, read_meta
from gpt2.data.prepare.adoption import adopt
from gpt2.data.prepare.pipeline import Settings, already_prepared, prepare
from gpt2.data.splits import SPLITS
from gpt2.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer
from gpt2.data.tokens import open_split, verify_hashes

ROOT = Path(__file__).resolve().parents[3]
GPT2 = Gpt2Tokenizer()
END = 50256
DOCUMENTS = ["Hello, caf\xe9 \U0001f642.\n", "<|endoftext|>", "", "Who's there? " * 50]


class Documents:
    """A corpus of given documents, each in pieces of three characters."""

    separated = True
    splits: tuple[str, ...] = NEEDED

    def __init__(self, train: list[str], val: list[str], tokenizer: Tokenizer) -> None:
        self.source: dict[str, Any] = {"address": "a test", "sha256": "0", "bytes": 1}
        self._splits = {"train": train, "val": val}
        self._tokenizer = tokenizer

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def text_bytes(self) -> int:
        return sum(len(doc.encode()) for docs in self._splits.values() for doc in docs)

    def documents(self, skip: int = 0) -> Iterator[Document]:
        every = [(split, doc) for split, docs in self._splits.items() for doc in docs]
        for split, doc in every[skip:]:
            yield Document(split, [doc[i : i + 3] for i in range(0, len(doc), 3)])


class ThreeSplits(Documents):
    """A corpus that has a third split, as all that are shipped have."""

    splits = SPLITS

    def __init__(self, test: str = "f g h") -> None:
        super().__init__(["a b", "c"], ["d e"], GPT2)
        self._splits["test"] = [test]


def example(tokenizer: Tokenizer = GPT2) -> Documents:
    return Documents(DOCUMENTS, DOCUMENTS[:1], tokenizer)


def ids_of(folder: Path, split: str) -> list[int]:
    return [int(i) for i in open_split(folder, split, 1).ids]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == Exit.DATA
    assert len(caught.value.messages) == 1
    assert "\n" not in caught.value.messages[0]
    return caught.value.messages[0]


def test_documents_end_with_end_of_text(tmp_path: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    meta = prepare(example(), tmp_path / "d", "text", lambda *now: steps.append(now))
    expected = [i for doc in DOCUMENTS if doc for i in [*GPT2.encode(doc).tolist(), END]]
    assert ids_of(tmp_path / "d", "train") == expected
    assert ids_of(tmp_path / "d", "val") == [*GPT2.encode(DOCUMENTS[0]).tolist(), END]
    sizes = [len("".join(DOCUMENTS).encode()), len(DOCUMENTS[0].encode())]
    assert [meta.splits["train"].bytes, meta.splits["val"].bytes] == sizes
    assert meta.splits["train"].tokens == len(expected)
    assert steps == [(0, sum(sizes)), (sum(sizes), sum(sizes))]
    assert meta.source["empty_documents"] == 1
    assert meta == read_meta(tmp_path / "d") == verify_hashes(tmp_path / "d")
    assert set(contents(tmp_path / "d")) == {"train.bin", "val.bin", "meta.json", ".lock"}


def test_characters_have_a_newline_instead(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("".join(DOCUMENTS) + "\n")
    prepare(example(tokenizer), tmp_path / "d", "text")
    assert tokenizer.decode(ids_of(tmp_path / "d", "train")) == "".join(
        f"{d}\n" for d in DOCUMENTS if d
    )


def test_one_text_has_no_end_of_text(tmp_path: Path) -> None:
    whole = "\n".join(DOCUMENTS)
    border = int(0.9 * len(whole))
    for tokenizer in (GPT2, CharTokenizer(whole)):
        info = {"address": "a test", "sha256": "0"}
        prepare(WholeText(whole, info, tokenizer), tmp_path / "d", "shakespeare")
        assert ids_of(tmp_path / "d", "train") == tokenizer.encode(whole[:border]).tolist()
        middle = border + -(-(len(whole) - border) // 2)
        assert ids_of(tmp_path / "d", "val") == tokenizer.encode(whole[border:middle]).tolist()
        assert ids_of(tmp_path / "d", "test") == tokenizer.encode(whole[middle:]).tolist()
        meta = read_meta(tmp_path / "d")
        assert meta.splits["val"].bytes == len(whole[border:middle].encode())
        assert ids_of(tmp_path / "d", "val+test") == [
            *ids_of(tmp_path / "d", "val"),
            *ids_of(tmp_path / "d", "test"),
        ]
        both = open_split(tmp_path / "d", "val+test", 1)
        assert both.text_bytes == len(whole[border:].encode())
        assert tokenizer.decode([int(i) for i in both.ids]) == whole[border:]


@pytest.mark.parametrize(("train", "val"), [([], ["x"]), (["x"], []), (["x"], [""])])
def test_an_empty_split_is_refused(train: list[str], val: list[str], tmp_path: Path) -> None:
    message = refused(lambda: prepare(Documents(train, val, GPT2), tmp_path / "d", "text"))
    assert ("val" if train else "train") in message
    assert set(contents(tmp_path / "d")) == {".lock"}


def test_the_ids_are_little_endian_uint16(tmp_path: Path) -> None:
    prepare(example(), tmp_path / "d", "text")
    raw = (tmp_path / "d" / "val.bin").read_bytes()
    assert raw[:4] == bytes([15496 & 255, 15496 >> 8, 11, 0])
    assert raw[-2:] == bytes([END & 255, END >> 8])


def test_an_error_of_the_text_leaves_the_old_data(tmp_path: Path) -> None:
    prepare(example(), tmp_path / "d", "text")
    before = contents(tmp_path / "d")
    bad = Documents(["good", "bad!"], ["good"], CharTokenizer("god\n"))
    assert "'b'" in refused(lambda: prepare(bad, tmp_path / "d", "text"))
    assert contents(tmp_path / "d") == before


def nanogpt(folder: Path) -> dict[str, list[int]]:
    splits = {
        "train": [*GPT2.encode(DOCUMENTS[0]).tolist(), END, *GPT2.encode(DOCUMENTS[3]).tolist()],
        "val": GPT2.encode("\U0001f642" * 20).tolist(),
    }
    folder.mkdir(parents=True)
    for split, ids in splits.items():
        np.array(ids, dtype=np.uint16).tofile(folder / f"{split}.bin")
    (folder / "meta.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    return splits


def test_nanogpt_files_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2.data.tokens._SCAN", 5)
    splits = nanogpt(tmp_path / "nano")
    meta = adopt(tmp_path / "nano", tmp_path / "d", "text", "gpt2")
    for split, ids in splits.items():
        content = (tmp_path / "nano" / f"{split}.bin").read_bytes()
        assert (tmp_path / "d" / f"{split}.bin").read_bytes() == content
        assert meta.splits[split].sha256 == hashlib.sha256(content).hexdigest()
        assert meta.splits[split].tokens == len(ids)
    sizes = [len((DOCUMENTS[0] + DOCUMENTS[3]).encode()), 4 * 20]
    assert [meta.splits["train"].bytes, meta.splits["val"].bytes] == sizes
    assert verify_hashes(tmp_path / "d") == meta
    assert meta.source["address"] == str(tmp_path / "nano")
    assert already_prepared(tmp_path / "d", "text", "gpt2", tmp_path / "nano") == meta


def test_what_cannot_be_adopted(tmp_path: Path) -> None:
    origin, folder = tmp_path / "nano", tmp_path / "d"
    assert "file not found" in refused(lambda: adopt(origin, folder, "text", "gpt2"))
    nanogpt(origin)
    assert "pickle" in refused(lambda: adopt(origin, folder, "text", "char"))
    assert "t5" in refused(lambda: adopt(origin, folder, "text", "t5"))
    bad = {b"\0" * 3: "3 bytes", b"": "0 bytes", b"\1\0\x51\xc4": "token 1 is 50257"}
    for content, expected in bad.items():
        (origin / "val.bin").write_bytes(content)
        message = refused(lambda: adopt(origin, folder, "text", "gpt2"))
        assert expected in message
        assert str(origin / "val.bin") in message
    assert not folder.exists()


def test_ids_of_another_kind_are_not_adopted(tmp_path: Path) -> None:
    origin, folder = tmp_path / "nano", tmp_path / "d"
    origin.mkdir()
    ids = np.random.default_rng(0).integers(0, 50257, 1500)
    for split in ("train", "val"):
        ids.astype(np.uint32).tofile(origin / f"{split}.bin")
    message = refused(lambda: adopt(origin, folder, "text", "gpt2"))
    assert "32-bit ids" in message
    for split in ("train", "val"):  # the way out of the message
        path = origin / f"{split}.bin"
        np.fromfile(path, np.uint32).astype(np.uint16).tofile(path)
    assert adopt(origin, folder, "text", "gpt2").splits["train"].tokens == 1500
    characters = ids % 65
    for split in ("train", "val"):
        characters.astype(np.uint16).tofile(origin / f"{split}.bin")
    (origin / "meta.pkl").write_bytes(b"never opened")
    assert "table of characters" in refused(lambda: adopt(origin, folder, "text", "gpt2"))
    (origin / "meta.pkl").unlink()
    said: list[str] = []
    adopt(origin, folder, "text", "gpt2", say=said.append)
    assert "none is above 64" in said[0]


def test_a_folder_can_be_adopted_in_place(tmp_path: Path) -> None:
    splits = nanogpt(tmp_path / "nano")
    adopt(tmp_path / "nano", tmp_path / "nano", "text", "gpt2")
    assert ids_of(tmp_path / "nano", "train") == splits["train"]


def test_finished_data_are_recognised(tmp_path: Path) -> None:
    given, folder = tmp_path / "in.txt", tmp_path / "d"
    given.write_text("a text\n" * 20)
    assert already_prepared(folder, "text", "gpt2", given) is None
    meta = prepare(text.open_corpus(Request(given, "gpt2", folder)), folder, "text")
    for tokenizer, asked in (("gpt2", given), (None, None), (None, given), ("gpt2", None)):
        assert already_prepared(folder, "text", tokenizer, asked) == meta

    other = tmp_path / "other.txt"
    other.write_text("another")
    for call, expected in (
        (lambda: already_prepared(folder, "text", "char", given), "--tokenizer gpt2, not char"),
        (lambda: already_prepared(folder, "text", "gpt2", other), f"not {other}"),
        (lambda: already_prepared(folder, "shakespeare", None, None), "--dataset text, not"),
    ):
        message = refused(call)
        assert expected in message
        assert "--force" in message
    with given.open("a") as file:
        file.write("more")
    assert "has changed since" in refused(lambda: already_prepared(folder, "text", None, given))


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "meta.json"])
def test_damaged_data_are_not_finished(name: str, tmp_path: Path) -> None:
    prepare(example(), tmp_path / "d", "text")
    path = tmp_path / "d" / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    message = refused(lambda: already_prepared(tmp_path / "d", "text", None, None))
    assert str(path) in message
    assert "--force" in message


def synthetic(path: Path, megabytes: int) -> str:
    """Write text of many different words, with no document borders."""
    rng = random.Random(megabytes)
    words = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(1, 10)))
        for _ in range(20_000)
    ]
    marks = [" ", " ", " ", ", ", ". ", "\n", " \xe9", " 12 "]
    block = "".join(w + rng.choice(marks) for w in rng.choices(words, k=200_000))
    content = block * (megabytes * 1_000_000 // len(block.encode()) + 1)
    path.write_text(content, encoding="utf-8")
    return content


MEASURE = """
import json, sys, threading, time
from pathlib import Path
from gpt2.data.corpora.text import open_corpus
from gpt2.data.corpus import Request
from gpt2.data.prepare.pipeline import Settings, prepare
peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.01):
        line = next(x for x in open("/proc/self/status") if x.startswith("RssAnon"))
        peak = max(peak, int(line.split()[1]))
thread = threading.Thread(target=watch)
thread.start()
folder = Path(sys.argv[2])
corpus = open_corpus(Request(Path(sys.argv[1]), "gpt2", folder))
prepare(corpus, folder, "text", settings=Settings(2))
done.set()
thread.join()
print(json.dumps(peak / 1024))
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    peaks = {}
    for size in (3, 30):
        given = tmp_path / f"{size}.txt"
        content = synthetic(given, size)
        command = [sys.executable, "-c", MEASURE, str(given), str(tmp_path / str(size))]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        peaks[size] = json.loads(done.stdout)
    assert peaks[30] < 300
    assert peaks[30] < peaks[3] + 30
    border = int(0.9 * len(content))
    middle = border + -(-(len(content) - border) // 2)
    parts = {"train": content[:border], "val": content[border:middle], "test": content[middle:]}
    for split, part in parts.items():
        ids = open_split(tmp_path / "30", split, 1024).ids
        assert np.array_equal(ids[:-1], GPT2.encode(part))
        assert ids[-1] == END


@pytest.mark.slow
def test_shakespeare_has_everybodys_counts(tmp_path: Path) -> None:
    request = Request(None, None, tmp_path / "downloads")
    prepare(shakespeare.open_corpus(request), tmp_path / "w", "shakespeare")
    chars = prepare(shakespeare_char.open_corpus(request), tmp_path / "c", "shakespeare-char")
    assert chars.vocab_size == 65
    counts = {
        name: [len(open_split(tmp_path / name, s, 1).ids) for s in ("train", "val+test", "test")]
        for name in ("w", "c")
    }
    # Others have 36,059: the cut between the halves is within a word, which is two tokens more.
    assert counts == {"w": [301_966, 36_061, 17_995], "c": [1_003_854, 111_540, 55_770]}


def test_a_corpus_has_the_splits_that_it_says(tmp_path: Path) -> None:
    meta = prepare(ThreeSplits(), tmp_path / "data", "three")
    assert list(meta.splits) == ["train", "val", "test"]
    assert read_meta(tmp_path / "data") == verify_hashes(tmp_path / "data") == meta
    assert ids_of(tmp_path / "data", "test") == [*GPT2.encode("f g h").tolist(), END]
    two = prepare(Documents(["a b", "c"], ["d e"], GPT2), tmp_path / "two", "two")
    assert meta.data_hash != two.data_hash  # the third counts
    (tmp_path / "data" / "test.bin").write_bytes(b"\0\0" * meta.splits["test"].tokens)
    with pytest.raises(UserError, match=r"test\.bin has changed"):
        verify_hashes(tmp_path / "data")
    again = prepare(Documents(["a b"], ["d e"], GPT2), tmp_path / "data", "two")
    assert list(again.splits) == ["train", "val"]
    assert not (tmp_path / "data" / "test.bin").exists()


def test_a_text_too_short_for_a_test_split_has_none(tmp_path: Path) -> None:
    said: list[str] = []
    meta = prepare(ThreeSplits(""), tmp_path, "three", say=said.append)
    assert said == ["no test split: the text is too short for one"]
    assert list(meta.splits) == ["train", "val"]
    assert read_meta(tmp_path) == verify_hashes(tmp_path) == meta
    assert set(contents(tmp_path)) == {"train.bin", "val.bin", "meta.json", ".lock"}
    message = refused(lambda: open_split(tmp_path, "val+test", 1))
    assert message.startswith(
        f"--split val+test: the data in {tmp_path} have train, val and no test"
    )
    message = refused(lambda: open_split(tmp_path, "valid", 1))
    assert message.endswith(f"the data in {tmp_path} have no split 'valid': they have train, val")


def test_a_limit_waits_for_every_split(tmp_path: Path) -> None:
    meta = prepare(ThreeSplits(), tmp_path, "three", settings=Settings(max_tokens=1))
    assert meta.splits["test"].tokens == 4
    assert meta.splits["train"].tokens == 5


@pytest.mark.parametrize("name", ["../test", "Test", "", "te st", "t\n"])
def test_a_split_has_the_name_of_a_file(name: str, tmp_path: Path) -> None:
    prepare(ThreeSplits(), tmp_path, "three")
    raw = json.loads((tmp_path / "meta.json").read_text())
    raw["splits"][name] = raw["splits"].pop("test")
    (tmp_path / "meta.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match="is not the name of a split"):
        read_meta(tmp_path)
