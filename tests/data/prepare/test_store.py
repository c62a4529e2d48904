"""Writing a data folder: after any interruption there are finished data or none."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpora import text
from gpt2.data.corpus import Request, WholeText
from gpt2.data.meta import read_meta
from gpt2.data.prepare.pipeline import already_prepared, prepare
from gpt2.data.tokenizer import CharTokenizer
from gpt2.data.tokens import verify_hashes
from gpt2.files.lock import lock_folder

ROOT = Path(__file__).resolve().parents[3]


def example() -> WholeText:
    return WholeText("a text " * 5, {"address": "a test", "sha256": "0"}, CharTokenizer("aetx "))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == Exit.DATA
    assert len(caught.value.messages) == 1
    assert "\n" not in caught.value.messages[0]
    return caught.value.messages[0]


CHILD = """
import sys
from pathlib import Path
from gpt2.data.corpora.text import open_corpus
from gpt2.data.corpus import Request
from gpt2.data.prepare.pipeline import prepare
folder = Path(sys.argv[2])
prepare(open_corpus(Request(Path(sys.argv[1]), sys.argv[3], folder)), folder, "text")
assert "torch" not in sys.modules
"""


def child(given: Path, folder: Path, fault: str = "", tokenizer: str = "char") -> int:
    command = [sys.executable, "-c", CHILD, str(given), str(folder), tokenizer]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "GPT2_FAULT": fault}, check=False
    ).returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "old_survives"),
    [
        ("data.write:kill", True),
        ("data.write:kill:2", True),
        ("data.complete:kill", True),
        ("data.rename:kill", False),
        ("data.rename:kill:2", False),
        ("data.meta:kill", False),
    ],
)
def test_kill_9_leaves_nothing_that_looks_finished(
    fault: str, old_survives: bool, tmp_path: Path
) -> None:
    given, folder, other = tmp_path / "in.txt", tmp_path / "d", tmp_path / "other"
    given.write_text("an older text\n" * 20)
    before = prepare(text.open_corpus(Request(given, "char", folder)), folder, "text")
    given.write_text("the text of today\n" * 20)
    assert child(given, folder, fault) == -signal.SIGKILL
    assert child(given, other, fault) == -signal.SIGKILL
    if old_survives:
        assert verify_hashes(folder) == before
    else:
        refused(lambda: read_meta(folder))
    refused(lambda: read_meta(other))
    assert already_prepared(other, "text", None, None) is None
    assert (other / ".unfinished").is_dir()

    after = prepare(text.open_corpus(Request(given, "char", folder)), folder, "text")
    prepare(text.open_corpus(Request(given, "char", folder)), other, "text")
    assert contents(folder) == contents(other)
    assert len(contents(folder)) == 5
    assert verify_hashes(folder) == after != before


@pytest.mark.parametrize("point", ["data.write", "data.rename", "data.meta"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failing_disk_is_one_line(
    point: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        if name == point:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gpt2.config.faults.failpoint", fail)
    message = refused(lambda: prepare(example(), tmp_path / "d", "text"))
    assert str(tmp_path / "d") in message
    assert os.strerror(number) in message
    assert set(contents(tmp_path / "d")) <= {".lock", "train.bin", "val.bin", "test.bin"}
    refused(lambda: read_meta(tmp_path / "d"))


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "d"):
        assert str(folder) in refused(lambda folder=folder: prepare(example(), folder, "text"))  # type: ignore[misc]

    def denied(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    assert "Permission denied" in refused(lambda: prepare(example(), tmp_path / "d", "text"))


def test_two_preparations_of_one_folder(tmp_path: Path) -> None:
    prepare(example(), tmp_path / "d", "text")
    before = contents(tmp_path / "d")
    with lock_folder(tmp_path / "d", "", ""):
        assert f"being prepared by process {os.getpid()} on " in refused(
            lambda: prepare(example(), tmp_path / "d", "text")
        )
        assert contents(tmp_path / "d") == before
    prepare(example(), tmp_path / "d", "text")
