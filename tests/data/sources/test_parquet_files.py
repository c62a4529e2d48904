"""Parquet files: a batch of rows at a time, and what is wrong with one that is damaged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data.sources import text_files
from gpt2.data.sources.parquet_files import footer_of
from gpt2.data.sources.parquet_files import texts_of as texts
from tests.support.hub_server import write_parquet


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == Exit.DATA
    (message,) = caught.value.messages
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_every_form_of_text(kind: str, compression: str, tmp_path: Path) -> None:
    found = [f"caf\xe9 {i}" for i in range(200)] + [None, ""]
    column = pa.array(found, pa.string())
    types = {"large_string": pa.large_string(), "string_view": pa.string_view()}
    if kind == "dictionary":
        column = column.dictionary_encode()
    elif kind in types:
        column = column.cast(types[kind])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path, compression=compression, row_group_size=77)
    expected = list(enumerate(text or "" for text in found))
    assert list(texts(path, "text")) == expected
    for skip in (0, 1, 76, 77, 78, 201, 202, 999):
        assert list(texts(path, "text", skip)) == expected[skip:]
    footer = footer_of(path, "text")
    assert footer.rows == 202
    assert footer.text_bytes > 0


def test_row_groups_that_are_passed_over_are_not_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [f"document {i}" for i in range(90)], rows=30)
    content = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(0)
    content[4 : 4 + group.column(0).total_compressed_size + 100] = bytes(
        group.column(0).total_compressed_size + 100
    )
    path.write_bytes(content)
    assert "damaged" in refused(lambda: list(texts(path, "text")))
    assert [row for row, _ in texts(path, "text", 30)] == list(range(30, 90))


def test_a_row_group_is_never_whole_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [f"{i:08} " * 500 for i in range(6000)]  # 27 MB
    pq.write_table(pa.table({"text": rows}), path, use_dictionary=False, compression="none")
    assert pq.read_metadata(path).num_row_groups == 1
    del rows
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    most = max(pool.bytes_allocated() - before for _ in texts(path, "text"))
    assert 0 < most < 8e6


def test_a_row_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    values = pa.array([b"good"] * 100 + [b"caf\xe9"] + [b"good"] * 9, pa.binary())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": values.view(pa.string())}), path)
    message = refused(lambda: list(texts(path, "text")))
    assert f"{path}: row 100 is not UTF-8 at byte 3" in message


@pytest.mark.parametrize("damage", ["cut", "start", "empty", "text", "footer", "page"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [f"document {i}" for i in range(500)], rows=100)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-60:-30] = bytes(30)
    page = bytearray(content)
    page[300:900] = b"\xff" * 600
    changed = {
        "cut": content[:-20],
        "start": content[20:],
        "empty": b"",
        "text": b"just text " * 100,
        "footer": bytes(flipped),
        "page": bytes(page),
    }
    path.write_bytes(changed[damage])

    def read() -> None:
        footer_of(path, "text")
        list(texts(path, "text"))

    assert str(path) in refused(read)


def test_a_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(["to be " * 1000] * 2000)}), path)
    assert path.stat().st_size < 20_000
    assert len(list(texts(path, "text"))) == 2000
    monkeypatch.setattr(text_files, "_ALWAYS_UNPACKED", 1 << 20)
    assert "200 times" in refused(lambda: list(texts(path, "text")))


def test_a_missing_library_and_a_missing_file_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot be read" in refused(lambda: footer_of(tmp_path / "none.parquet", "text"))
    path = write_parquet(tmp_path / "a.parquet", ["x"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refused(lambda: footer_of(path, "text"))
    assert f"{path} needs the Python package 'pyarrow'" in message
    assert message.endswith("-m pip install pyarrow")
