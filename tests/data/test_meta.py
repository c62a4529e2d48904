"""meta.json: it comes back as it was written, and what cannot be read names its file."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

import pytest

from gpt2.config import interpreter, preparation
from gpt2.config.errors import Exit, UserError
from gpt2.data.meta import read_meta
from tests.support.data_folder import make_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "shakespeare", list(range(90)), list(range(20)))
    return tmp_path / "shakespeare"


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_meta(folder)
    assert caught.value.code == Exit.DATA
    assert len(caught.value.messages) == 1
    assert "\n" not in caught.value.messages[0]
    return caught.value.messages[0]


def test_meta_survives_its_file(folder: Path) -> None:
    meta = read_meta(folder)
    raw = json.loads((folder / "meta.json").read_text())
    assert (raw["format"], raw["dtype"], raw["data_hash"]) == (1, "uint16", meta.data_hash)
    assert raw["splits"]["train"] == {
        "tokens": 90,
        "bytes": 180,
        "sha256": hashlib.sha256((folder / "train.bin").read_bytes()).hexdigest(),
    }
    assert "90 training and 20 validation tokens" in meta.summary()


def test_missing_data_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = shlex.join([*interpreter.command("gpt2/prepare_data.py"), "--dataset"])
    message = refused(tmp_path / "shakespeare-char")
    assert message.endswith(f"{command} shakespeare-char --data-dir {tmp_path}")
    monkeypatch.setattr(preparation, "_DEFAULT_DATA", tmp_path)
    assert refused(tmp_path / "shakespeare-char").endswith(f"{command} shakespeare-char")
    assert refused(tmp_path / "text").endswith(f"{command} text --input FILE_OR_FOLDER")


def test_data_without_meta_are_unfinished(folder: Path) -> None:
    (folder / "meta.json").unlink()
    assert "not finished" in refused(folder)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("dtype", "uint32", "dtype 'uint32'"),
        ("dtype", None, "dtype None"),
        ("format", 3, "format 3"),
        ("format", 0, "contradicts"),
        ("format", "new", "contradicts"),
        ("splits", {"train": {"tokens": 90}}, "incomplete"),
        ("splits", [], "incomplete"),
        ("tokenizer", {"name": "char"}, "incomplete"),
        ("tokenizer", 5, "incomplete"),
        ("source", {}, "incomplete"),
        ("data_hash", "0", "contradicts"),
    ],
)
def test_a_meta_that_cannot_be_read(folder: Path, key: str, value: object, expected: str) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    message = refused(folder)
    assert str(path) in message
    assert expected in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"3"])
def test_a_meta_that_is_not_json(folder: Path, content: bytes) -> None:
    (folder / "meta.json").write_bytes(content)
    assert "meta.json" in refused(folder)


def test_things_in_the_wrong_place(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "not a folder" in refused(tmp_path / "file")
    (folder / "meta.json").unlink()
    (folder / "meta.json").mkdir()
    assert "is a folder" in refused(folder)
