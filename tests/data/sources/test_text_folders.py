"""Folders of text as people have them: links, loops, pipes, other kinds, bad files among good."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data.meta import read_meta
from gpt2.data.sources.text_folders import find
from gpt2.prepare_data import main

TEXT = "it was the best of times, it was the worst of times. " * 10


def write(path: Path, text: str = TEXT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def prepare(folder: Path, where: Path, *more: str) -> int:
    return main(["--input", str(where), "--data-dir", str(folder), *more])


def test_links_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    here, disk = tmp_path / "in", tmp_path / "disk"
    near, far = write(here / "a.txt"), write(disk / "deep" / "b.txt")
    one = write(tmp_path / "c.txt")
    (here / "linked").symlink_to(disk)
    (here / "again").symlink_to(disk)
    (here / "linked" / "deep" / "back").symlink_to(here)
    (here / "c.txt").symlink_to(one)
    found = find(here)
    assert [path.resolve() for path in found.files] == [near, one, far]
    assert found.passed_over() == "2 links to a folder read already"


def test_what_is_not_read_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "in"
    write(where / "a.txt")
    for name in ("t.csv", "u.csv", "code.py", "README", ".git/x.txt", ".b.txt"):
        write(where / name)
    os.mkfifo(where / "pipe.txt")  # opening it would wait for ever
    assert prepare(tmp_path / "d", where) == Exit.OK
    line, short = capsys.readouterr().err.splitlines()
    assert short.startswith("warning: ")
    assert line == (
        f"{where}: reading 1 file; passed over: 4 files of other kinds (.csv, .py, no ending),"
        " 2 hidden, 1 that are not regular files"
    )


def test_a_folder_of_other_kinds_says_which(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.log")
    with pytest.raises(UserError, match=r"passed over: 1 file of other kinds \(.log\)"):
        find(tmp_path / "in")


def test_a_name_that_is_not_text_s_has_a_way_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a folder" / "notes.log")
    with pytest.raises(UserError) as caught:
        find(path)
    subprocess.run(["sh", "-c", str(caught.value).partition("such a name: ")[2]], check=True)
    (found,) = find(path.with_name("notes.log.txt")).files
    assert found.read_text() == TEXT


def test_a_pipe_is_no_missing_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"a pipe or device.* > FILE.txt"):
        prepare(tmp_path / "d", tmp_path / "pipe")


BAD = {
    "bad1.txt": b"good text \xff",
    "bad2.jsonl": b'{"text": "x"\n',
    "bad3.txt.gz": b"\x1f\x8b\x08 cut",
    "bad4.parquet": b"PAR1 and no more",
}


def test_bad_files_are_left_out_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where, alone = tmp_path / "in", tmp_path / "alone"
    for folder in (where, alone):
        write(folder / "a.txt")
        write(folder / "z.md", TEXT.upper())
    for name, content in BAD.items():
        (where / name).write_bytes(content)
    (where / "bad5.txt").symlink_to("nowhere")
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "d", where)
    assert caught.value.code == Exit.DATA
    assert "--bad-files skip prepares the folder without" in str(caught.value)
    assert prepare(tmp_path / "d", where, "--bad-files", "skip") == Exit.OK  # the way out works
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "left out" in one]
    assert "left out 5 files of 7: " in line
    assert "bad1.txt: byte 10 is not UTF-8" in line
    assert line.rstrip().endswith("and 2 more")
    left_out = read_meta(tmp_path / "d" / "text").source["left_out"]
    assert (left_out["files"], len(left_out["names"])) == (5, 5)
    assert left_out["bytes"] == sum(map(len, BAD.values()))
    prepare(tmp_path / "e", alone)
    for name in ("train.bin", "val.bin", "test.bin"):
        content = (tmp_path / "d" / "text" / name).read_bytes()
        assert content == (tmp_path / "e" / "text" / name).read_bytes()
    # The same folder is not taken for a changed one; a changed one is.
    assert prepare(tmp_path / "d", where) == Exit.OK
    write(where / "a.txt", TEXT + "more")
    with pytest.raises(UserError, match="which has changed since"):
        prepare(tmp_path / "d", where)


def test_a_package_that_is_missing_is_no_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a.txt")
    (tmp_path / "in" / "b.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs the Python package"):
        prepare(tmp_path / "d", tmp_path / "in", "--bad-files", "skip")


def test_only_bad_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="all files are bad"):
        prepare(tmp_path / "d", tmp_path / "in", "--bad-files", "skip")


@pytest.mark.parametrize(
    ("flag", "other"),
    [("--bad-files=skip", "--dataset=shakespeare"), ("--end-of-text=token", "--adopt=.")],
)
def test_a_flag_for_own_text_is_refused_elsewhere(flag: str, other: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no effect on"):
        main([flag, other, "--data-dir", str(tmp_path)])
