"""How an entry ends: exit codes, and errors without a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError
from tests.conftest import REPOSITORY


def ended(main: Callable[[], int]) -> int:
    with pytest.raises(SystemExit) as left:
        run_entry("entry.py", main)
    assert type(left.value.code) is int
    return left.value.code


def test_the_exit_codes_are_those_of_the_documentation() -> None:
    # Others rely on them: schedulers take 75 as "run me again".
    assert {code.name: code.value for code in Exit} == {
        "OK": 0, "BUG": 1, "CONFIG": 2, "DATA": 3, "CHECKPOINT": 4, "DIVERGED": 5, "MEMORY": 6,
        "HANG": 7, "PREEMPTED": 75, "INTERRUPTED": 130,
    }  # fmt: skip


@pytest.mark.parametrize("code", list(Exit))
def test_the_code_of_main_is_the_exit_code(code: Exit) -> None:
    assert ended(lambda: code) == code.value


def test_a_user_error_is_a_line_for_each_problem(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise UserError("--a is wrong", "--b is, too", code=Exit.DATA)

    assert ended(main) == 3
    shown = capsys.readouterr()
    assert shown.err == "entry.py: error: --a is wrong\nentry.py: error: --b is, too\n"
    assert shown.out == ""


def test_of_many_ranks_the_first_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise UserError("--a is wrong")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setattr("time.sleep", lambda _: None)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert ended(main) == Exit.CONFIG
        assert capsys.readouterr().err.count("\n") == lines


def test_a_rank_without_others_is_no_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batch systems set RANK for scripts of their own: nothing may be silent by it."""

    def main() -> int:
        raise UserError("--a is wrong")

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "3")
    assert ended(main) == Exit.CONFIG
    assert capsys.readouterr().err == "entry.py: error: --a is wrong\n"


def test_what_one_rank_alone_meets_is_said_by_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")

    def main() -> int:
        raise UserError("its own file has changed", code=Exit.DATA, everywhere=False)

    assert ended(main) == Exit.DATA
    assert capsys.readouterr().err == "entry.py: error: its own file has changed\n"


def test_a_rank_that_another_one_left_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setattr("time.sleep", lambda _: None)

    def main() -> int:
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer")

    assert ended(main) == Exit.BUG
    assert capsys.readouterr().err == "entry.py: error: rank 1 lost another one, which says why\n"


def test_a_user_error_is_about_options_unless_it_says_otherwise() -> None:
    error = UserError("a", "b")
    assert (error.code, error.messages, str(error)) == (Exit.CONFIG, ("a", "b"), "a\nb")


def test_ctrl_c_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise KeyboardInterrupt

    assert ended(main) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (2, 2)])
def test_argparse_may_leave(given: int | None, code: int) -> None:
    assert ended(lambda: sys.exit(given)) == code


def test_a_bug_is_one_line_and_a_file_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise ZeroDivisionError("by nought\nand more")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ended(main) == Exit.BUG
    (line,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.iterdir()
    assert line.startswith("entry.py: error: this is a bug of this program")
    assert "(ZeroDivisionError: by nought)" in line
    assert line.endswith(f" is in {file}")
    kept = file.read_text()
    assert "Traceback (most recent call last)" in kept
    assert "by nought\nand more" in kept
    assert sys.argv[0] in kept.splitlines()[0]


def test_a_bug_is_not_lost_where_no_file_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert ended(main) == Exit.BUG
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_want_of_memory_is_said_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise MemoryError

    assert ended(main) == Exit.MEMORY
    assert capsys.readouterr().err == "entry.py: error: out of memory\n"


# What argparse itself cannot write, it drops without a word.
@pytest.mark.parametrize(("flag", "codes"), [("--help", {0, 1}), ("--check-config", {Exit.OK})])
def test_a_reader_may_go_away(flag: str, codes: set[int]) -> None:
    # The reading end is closed before anything is written, as by `| true`.
    process = subprocess.Popen(
        [sys.executable, "gpt2/train.py", flag],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(timeout=60) in codes
