from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gpt2.files import atomic


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.replace_file(path, "one\n")
    atomic.replace_file(path, "two\n")
    assert path.read_text() == "two\n"
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_that_are_no_utf_8_come_back_as_they_were(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    atomic.replace_file(tmp_path / "a", name)
    assert (tmp_path / "a").read_bytes() == b"caf\xe9"


@pytest.mark.parametrize("fails_at", ["fsync", "rename"])
def test_a_failure_leaves_the_old_file(
    fails_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync", fail) if fails_at == "fsync" else (Path, "rename", fail)))
    with pytest.raises(OSError, match="No space"):
        atomic.replace_file(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_several_files_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic.replace_files(tmp_path, {"a": "new", "b": "new"}, "strict")
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_folder_is_synced_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        atomic, "sync_folder", lambda folder: synced.append((folder / "a").read_text())
    )
    atomic.replace_file(tmp_path / "a", "new")
    assert synced == ["new"]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "there"
    with atomic.new_folder(final) as folder:
        (folder / "a").write_text("1")
        assert not final.exists()
    assert (final / "a").read_text() == "1"

    def interrupted() -> None:
        with atomic.new_folder(tmp_path / "other") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        interrupted()
    assert list(tmp_path.iterdir()) == [final]


def test_a_file_is_created_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    assert atomic.create_file(path, "one\n")
    assert not atomic.create_file(path, "two\n")
    assert path.read_text() == "one\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_whose_answer_was_lost_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:  # as NFS repeats a request
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert atomic.create_file(tmp_path / "claim", "one\n")
    assert not atomic.create_file(tmp_path / "claim", "two\n")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_creates_it_directly(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    path = tmp_path / "claim"
    assert atomic.create_file(path, "one\n")
    assert not atomic.create_file(path, "two\n")
    assert path.read_text() == "one\n"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
    with pytest.raises(OSError, match="bad"):
        atomic.create_file(tmp_path / "other", "one\n")
    assert list(tmp_path.iterdir()) == [path]
