"""Every corpus, as a plug-in; one's own text in every form."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from gpt2 import prepare_data
from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.config.preparation import needs_input
from gpt2.data.corpora.text import open_corpus
from gpt2.data.corpus import Corpus, Request, WholeText
from gpt2.data.declaration import declaration, tokenizer_of
from gpt2.data.meta import read_meta
from gpt2.data.sources import text_files
from gpt2.data.splits import SPLITS, split_of
from gpt2.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer
from tests.support.hub_server import write_parquet

CORPORA = "gpt2.data.corpora"
#: Those made of a text file; those of the hub are in data/sources/test_hub.py.
OF_TEXT = [
    name for name in plugins.names(CORPORA) if "REPOSITORY" not in vars(plugins.load(CORPORA, name))
]
TEXT = "First Citizen:\nBefore we proceed, hear me.\n\nAll:\nSpeak!\n" * 20


def request(tmp_path: Path, given: Path | None, tokenizer: str | None = None) -> Request:
    return Request(given, tokenizer, tmp_path / "downloads")


def whole(corpus: Corpus, split: str) -> list[str]:
    """The documents of a split that are not empty."""
    found = [("".join(d.pieces), d.split) for d in corpus.documents()]
    assert {where for _, where in found} <= set(SPLITS)
    return [text for text, where in found if text and where == split]


def assert_skips(corpus: Corpus) -> None:
    """Check that passing over documents leaves the others as they are."""
    every = [(d.split, "".join(d.pieces)) for d in corpus.documents()]
    for skip in (1, len(every) // 2, len(every) - 1, len(every), len(every) + 1):
        assert [(d.split, "".join(d.pieces)) for d in corpus.documents(skip)] == every[skip:]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == Exit.DATA
    assert len(caught.value.messages) == 1
    return caught.value.messages[0]


@pytest.mark.parametrize("name", OF_TEXT)
def test_every_corpus_keeps_the_protocol(name: str, tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_text(TEXT, encoding="utf-8")
    corpus: Corpus = plugins.load(CORPORA, name).open_corpus(request(tmp_path, path))
    tokenizer = corpus.tokenizer()
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(corpus.separated, bool)
    assert {"address", "sha256"} <= json.loads(json.dumps(corpus.source)).keys()
    assert corpus.source["address"] == str(path)
    assert {d.split for d in corpus.documents()} == set(corpus.splits)
    train, val, test = (whole(corpus, split) for split in SPLITS)
    assert train == whole(corpus, "train")
    assert_skips(corpus)
    assert "".join(train + val + test) == TEXT
    assert len("".join(train)) == int(0.9 * len(TEXT))
    assert len("".join(val)) == len("".join(test)) == len(TEXT) // 20
    for text in train + val + test:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", plugins.names(CORPORA))
def test_every_corpus_declares_what_its_module_has(name: str) -> None:
    module = plugins.load(CORPORA, name)
    declared = declaration(name)
    assert declared.tokenizers == module.TOKENIZERS
    assert set(declared.tokenizers) <= {Gpt2Tokenizer.name, CharTokenizer.name}
    assert declared.needs_input == vars(module).get("NEEDS_INPUT", False)
    # Where there is a choice, the menu has it, and its default is the corpus's own.
    options = Options()
    options.give("DATASET", name, "--dataset")
    chosen = options.value("TOKENIZER")
    assert (chosen is None) == (len(declared.tokenizers) == 1)
    assert chosen in (None, declared.tokenizers[0])
    assert tokenizer_of(bind(options).data) == declared.tokenizers[0]


def test_what_is_declared_is_what_is_made(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_text(TEXT, encoding="utf-8")
    for name in OF_TEXT:
        load = plugins.load(CORPORA, name).open_corpus
        assert load(request(tmp_path, path)).tokenizer().name == declaration(name).tokenizers[0]
        for tokenizer in declaration(name).tokenizers:
            assert load(request(tmp_path, path, tokenizer)).tokenizer().name == tokenizer
        if declaration(name).needs_input:
            assert "--input" in refused(lambda load=load: load(request(tmp_path, None)))  # type: ignore[misc]


def test_a_corpus_that_does_not_say_its_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"NEEDS_INPUT": True}
    monkeypatch.setattr(plugins, "constants", lambda *_: found)
    for wrong in ({}, {"TOKENIZERS": "gpt2"}, {"TOKENIZERS": ()}):
        monkeypatch.setattr(plugins, "constants", lambda *_, wrong=wrong: found | wrong)
        with pytest.raises(UserError, match=r"shakespeare_char\.py does not say its tokenizers"):
            declaration("shakespeare-char")
    assert not needs_input("a folder of another name")


@pytest.mark.parametrize("name", OF_TEXT)
def test_every_corpus_refuses_what_it_cannot(name: str, tmp_path: Path) -> None:
    load = plugins.load(CORPORA, name).open_corpus
    path = tmp_path / "input.txt"
    assert str(path) in refused(lambda: load(request(tmp_path, path)))
    path.write_bytes(b"good\xff")
    asked = request(tmp_path, path, "char" if name == "shakespeare" else "sentencepiece")
    assert "--tokenizer" in refused(lambda: load(asked))
    message = refused(lambda: whole(load(request(tmp_path, path)), "train"))
    assert "byte 4" in message
    assert str(path) in message


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("ending", [".txt", ".md"])
def test_a_text_is_cut_at_nine_tenths(packing: str, ending: str, tmp_path: Path) -> None:
    rng = random.Random(1)
    text = "".join(rng.choices("ab \r\n\t\xe9\u4e2d\U0001f642\ufeff", k=200_000))
    path = tmp_path / f"in{ending}{packing}"
    path.write_bytes(PACKERS[packing](b"\xef\xbb\xbf" + text.encode()))
    corpus = open_corpus(request(tmp_path, path))
    assert whole(corpus, "train") == [text[:180_000]]
    assert whole(corpus, "val") == [text[180_000:190_000]]
    assert whole(corpus, "test") == [text[190_000:]]
    assert max(len(piece) for doc in corpus.documents() for piece in doc.pieces) <= 1 << 18
    assert corpus.text_bytes == (None if packing else path.stat().st_size)


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
def test_the_size_of_reads_changes_nothing(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_PIECE", piece)
    text = "\ufeffa\u4e2d\U0001f642\n{}\ufeff" * 3
    path = tmp_path / "in.txt"
    path.write_bytes(text.encode())
    assert "".join(text_files.pieces(path)) == text[1:]
    path.write_bytes(text.encode() + b"\xe4\xb8")
    place = len(text.encode())
    assert f"byte {place} " in refused(lambda: list(text_files.pieces(path)))
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a\\n\u4e2d"}\n\n{"text": "b"}\r\n{"text": "c"}', encoding="utf-8")
    assert list(text_files.records(path, "text")) == ["a\n\u4e2d", "b", "c"]


@pytest.mark.parametrize("packing", PACKERS)
def test_jsonl_lines_are_documents(packing: str, tmp_path: Path) -> None:
    texts = [f"document {i}\nof two lines" for i in range(2000)]
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    path = tmp_path / f"in.jsonl{packing}"
    path.write_bytes(PACKERS[packing]("\n".join([*lines, '{"text": ""}']).encode()))
    corpus = open_corpus(request(tmp_path, path))
    train, val, test = (whole(corpus, split) for split in SPLITS)
    assert sorted(train + val + test) == sorted(texts)
    assert 75 < len(val) < 125
    assert 75 < len(test) < 125
    assert val == [text for text in texts if split_of(text, 10) == "val"]
    assert test == [text for text in texts if split_of(text, 10) == "test"]
    assert_skips(corpus)


def test_folders_are_walked_in_order(tmp_path: Path) -> None:
    where = tmp_path / "in"
    names = ["b.txt", "a/z.md", "a/y.txt.gz", "c.TXT", ".hidden.txt", ".git/x.txt", "d.bin", "e.gz"]
    for name in names:
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress if name.endswith(".gz") else bytes
        path.write_bytes(packed(name.encode() * 10))
    corpus = open_corpus(request(tmp_path, where))
    parts = zip(*(whole(corpus, split) for split in SPLITS), strict=True)
    texts = ["".join(part) for part in parts]
    assert texts == [name * 10 for name in ("b.txt", "c.TXT", "a/y.txt.gz", "a/z.md")]
    assert_skips(corpus)
    assert corpus.source["files"] == 4
    before = corpus.source["sha256"]
    (where / "b.txt").write_text("changed")
    assert open_corpus(request(tmp_path, where)).source["sha256"] != before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "x"', "not JSON"),
        (b'"x"', "no text"),
        (b'{"txt": "x"}', "no text"),
        (b'{"text": 5}', "no text"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": "\\ud800"}', "half a surrogate"),
    ],
)
def test_a_bad_line_is_named(line: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    message = refused(lambda: whole(open_corpus(request(tmp_path, path)), "train"))
    assert f"{path}:3" in message
    assert expected in message
    assert len(message) < 1000


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_LONGEST_LINE", 1000)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x" * 2000)
    assert "1,000 bytes" in refused(lambda: list(text_files.records(path, "text")))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flip", "plain", "empty"])
def test_a_damaged_packing_is_named(packing: str, damage: str, tmp_path: Path) -> None:
    content = PACKERS[packing](random.Random(1).randbytes(3000).hex().encode() * 2)
    changed: dict[str, bytes] = {
        "cut": content[:-10],
        "flip": content[:4] + bytes([content[4] ^ 0xFF]) + content[5:-4] + b"0000",
        "plain": b"just text",
        "empty": b"",
    }
    path = tmp_path / f"in.txt{packing}"
    path.write_bytes(changed[damage])
    if (packing, damage) == (".gz", "empty"):
        assert list(text_files.pieces(path)) == []
    else:
        assert str(path) in refused(lambda: list(text_files.pieces(path)))


def test_frames_one_after_the_other(tmp_path: Path) -> None:
    for packing, pack in PACKERS.items():
        path = tmp_path / f"in.txt{packing}"
        path.write_bytes(pack(b"one ") + pack(b"two"))
        assert "".join(text_files.pieces(path)) == "one two"


@pytest.mark.slow
@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_file_that_unpacks_without_end_is_refused(
    packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"in.txt{packing}"
    path.write_bytes(PACKERS[packing](b"to be " * 500_000))
    assert sum(map(len, text_files.pieces(path))) == 3_000_000  # too little to do harm
    monkeypatch.setattr(text_files, "_ALWAYS_UNPACKED", 1 << 20)
    message = refused(lambda: list(text_files.pieces(path)))
    assert str(path) in message
    assert "200 times" in message
    rng = random.Random(1)
    path.write_bytes(PACKERS[packing](bytes(rng.choices(b"ab \n", k=1_200_000))))
    assert sum(map(len, text_files.pieces(path))) == 1_200_000


def test_a_few_bytes_never_unpack_to_much_at_once(tmp_path: Path) -> None:
    path = tmp_path / "in.txt.zst"
    path.write_bytes(PACKERS[".zst"](bytes(200 << 20)))
    with path.open("rb") as file:
        assert max(map(len, text_files._unpack_zst(file))) <= 40 << 20


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in.doc").write_text("x")
    for name in ("in", "in.doc", "missing"):
        path = tmp_path / name
        assert str(path) in refused(lambda path=path: open_corpus(request(tmp_path, path)))  # type: ignore[misc]
    assert "--input" in refused(lambda: open_corpus(request(tmp_path, None)))


def test_characters_are_those_of_all_files(tmp_path: Path) -> None:
    where = tmp_path / "in"
    where.mkdir()
    (where / "a.txt").write_text("ab" * 20 + "\xe9", encoding="utf-8")
    (where / "b.jsonl").write_text('{"text": "xyz"}', encoding="utf-8")
    tokenizer = open_corpus(request(tmp_path, where, "char")).tokenizer()
    assert isinstance(tokenizer, CharTokenizer)
    assert tokenizer.chars == "\nabxyz\xe9"


def test_too_many_characters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(map(chr, range(0x10000, 0x20010))), encoding="utf-8")
    corpus = open_corpus(request(tmp_path, path, "char"))
    assert "different characters" in refused(corpus.tokenizer)


def parquet_folder(tmp_path: Path, column: str = "text") -> tuple[Path, list[str]]:
    where = tmp_path / "in"
    texts = [f"document {i} caf\xe9 \U0001f642\n" * (i % 4) for i in range(300)]
    write_parquet(where / "a.parquet", texts[:130], column, rows=40)
    (where / "b.jsonl").write_text(
        "\n".join(json.dumps({column: text}) for text in texts[130:170]), encoding="utf-8"
    )
    write_parquet(where / "c" / "d.parquet", [*texts[170:], None], column, rows=200)
    return where, [*texts, ""]


def test_rows_of_parquet_are_documents(tmp_path: Path) -> None:
    where, texts = parquet_folder(tmp_path)
    corpus = open_corpus(request(tmp_path, where))
    found = [(d.split, "".join(d.pieces)) for d in corpus.documents()]
    assert found == [(split_of(text, 10), text) for text in texts]
    assert_skips(corpus)
    for skip in (39, 40, 41, 129, 130, 131, 169, 170, 171):
        assert ["".join(d.pieces) for d in corpus.documents(skip)] == texts[skip:]
    assert corpus.source["files"] == 3
    size = corpus.text_bytes
    assert size is not None
    assert size >= sum(len(text.encode()) for text in texts)
    tokenizer = open_corpus(request(tmp_path, where, "char")).tokenizer()
    assert isinstance(tokenizer, CharTokenizer)
    assert set(tokenizer.chars) == set("".join(texts))


def test_the_column_of_the_text_has_a_name(tmp_path: Path) -> None:
    where, texts = parquet_folder(tmp_path, "body")
    message = refused(lambda: open_corpus(request(tmp_path, where)))
    assert "no column 'text'" in message
    assert "id (int64), body (string)" in message
    assert "--text-column" in message
    asked = Request(where, None, tmp_path, "body")
    assert ["".join(d.pieces) for d in open_corpus(asked).documents()] == texts
    assert open_corpus(asked).source["text_column"] == "body"
    message = refused(lambda: open_corpus(Request(where, None, tmp_path, "id")))
    assert "'id' holds no text" in message
    (where / "b.jsonl").write_text('{"text": "x"}\n')
    message = refused(lambda: list(open_corpus(asked).documents()))
    assert f"{where / 'b.jsonl'}:1: no text" in message
    assert '"body"' in message
    alone = tmp_path / "a.txt"
    alone.write_text("to be")
    assert "--text-column body" in refused(
        lambda: open_corpus(Request(alone, None, tmp_path, "body"))
    )


def test_the_column_is_part_of_what_was_prepared(tmp_path: Path) -> None:
    where, _ = parquet_folder(tmp_path, "body")
    command = ["--data-dir", str(tmp_path / "data"), "--input", str(where), "--workers", "1"]
    command += ["--tokenizer-backend", "tiktoken"]
    assert prepare_data.main([*command, "--text-column", "body"]) == Exit.OK
    assert prepare_data.main(command) == Exit.OK
    message = refused(lambda: prepare_data.main([*command, "--text-column", "id"]))
    assert "--text-column body, not id" in message
    with pytest.raises(UserError, match="no effect on --adopt"):
        prepare_data.main(["--adopt", str(where), "--text-column", "body"])


def test_shards_of_lines_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        lines = "".join(json.dumps({"text": f"{number} {i}"}) + "\n" for i in range(3))
        path = tmp_path / "in" / f"shard_{number:03}.jsonl.zst"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PACKERS[".zst"](lines.encode()))
    corpus = open_corpus(request(tmp_path, tmp_path / "in"))
    texts = ["".join(d.pieces) for d in corpus.documents()]
    assert texts == [f"{number} {i}" for number in range(3) for i in range(3)]
    assert_skips(corpus)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 1003])
def test_whole_text_is_split_by_characters(length: int) -> None:
    text = "\xe9" * length
    info: dict[str, Any] = {}
    corpus = WholeText(text, info, CharTokenizer("\xe9"))
    border = int(0.9 * length)
    found = [(d.split, "".join(d.pieces)) for d in corpus.documents()]
    middle = border + math.ceil((length - border) / 2)
    assert found == [
        ("train", text[:border]),
        ("val", text[border:middle]),
        ("test", text[middle:]),
    ]
    assert_skips(corpus)
    assert corpus.text_bytes == 2 * length


MARKED = "one\n<|endoftext|>\ntwo " * 40


def test_end_of_text_in_text_is_said_and_can_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "marked.txt"
    path.write_text(MARKED, encoding="utf-8")
    command = ["--input", str(path), "--data-dir", str(tmp_path)]
    assert prepare_data.main(command) == Exit.OK
    line, short = capsys.readouterr().err.splitlines()
    assert "training tokens, and one sequence of the default --block-size 1024 needs" in short
    assert "<|endoftext|> occurs 40 times in the text" in line
    way_out = re.findall(r"--\S+(?: \w+)?", line)
    with pytest.raises(UserError, match="--end-of-text text, not token: --force"):
        prepare_data.main([*command, "--end-of-text", "token"])
    assert prepare_data.main([*command, *" ".join(way_out).split()[:3]]) == Exit.OK
    ids = np.concatenate(
        [np.fromfile(tmp_path / "text" / f"{split}.bin", "<u2") for split in SPLITS]
    )
    # One at each mark, and one at the end of each of the three parts.
    assert np.count_nonzero(ids == 50256) == 43
    meta = read_meta(tmp_path / "text")
    assert meta.source["end_of_text"] == "token"
    # Its marks are no text: bits per byte are per byte of what a reader reads.
    without = MARKED.replace("<|endoftext|>", "")
    assert sum(split.bytes for split in meta.splits.values()) == len(without)
    assert "endoftext" not in capsys.readouterr().err


def test_characters_have_no_end_of_text_to_mean(tmp_path: Path) -> None:
    asked = Request(tmp_path, "char", tmp_path, end_of_text=True)
    assert "--tokenizer gpt2" in refused(lambda: open_corpus(asked))


def test_a_split_by_hash_that_stays_empty_has_a_way_out(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "the same line about cats " * 3})] * 100
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    command = ["--data-dir", str(tmp_path), "--input"]
    message = refused(lambda: prepare_data.main([*command, str(path)]))
    assert "split is empty" in message
    assert "by a hash of their text" in message
    # The way out: the same text as one .txt file.
    plain = tmp_path / "few.txt"
    plain.write_text("\n".join(json.loads(line)["text"] for line in lines), encoding="utf-8")
    assert prepare_data.main([*command, str(plain)]) == Exit.OK


def test_the_keys_that_are_there_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": 1, "content": "x", "title": "y"}\n', encoding="utf-8")
    message = refused(lambda: whole(open_corpus(request(tmp_path, path)), "train"))
    assert "its keys with text are content, title" in message
    asked = Request(path, None, tmp_path, "content")
    assert sum(len(whole(open_corpus(asked), split)) for split in SPLITS) == 1
    path.write_text('[{"text": "x"}]', encoding="utf-8")
    assert "one JSON array" in refused(lambda: whole(open_corpus(request(tmp_path, path)), "val"))
