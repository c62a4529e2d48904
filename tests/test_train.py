"""train.py as a user meets it: the run directory it leaves, and what it says to bad input."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2 import prepare_data
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.data.meta import read_meta
from gpt2.run_dir.resume import load_config
from gpt2.train import main
from tests.support import tiny
from tests.support.terminal import Terminal


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    more = ("--max-steps", "6", "--eval-interval", "2", "--sample-tokens", "20")
    assert tiny.train(data, path, *more) == Exit.OK
    return path


def test_a_run_explains_itself(run: Path, data: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "command", "config", "run.json", "metrics.jsonl", "log.txt", "checkpoints", "summary.json",
    }  # fmt: skip
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("finished", 0)
    assert record["data"]["data_hash"] == read_meta(data / "text").data_hash
    assert record["data"]["source"]["address"] == "a test"
    assert record["determinism"] == "bitwise"
    assert record["threads"] == 1
    assert record["planned_steps"] == 6
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["peak_host_bytes"] > 10_000_000
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 6
    assert summary["tokens"] == 6 * 4 * tiny.BLOCK
    evaluations = [line for line in tiny.metrics(run) if "val_loss" in line]
    assert [line["step"] for line in evaluations] == [2, 4, 6]
    # The result is the last one, whatever the best was.
    assert summary["val_loss"] == evaluations[-1]["val_loss"]
    assert summary["best"]["val_loss"] == min(line["val_loss"] for line in evaluations)
    assert "--- sample" in (run / "log.txt").read_text()


def test_a_terminal_ends_with_the_loss_curve(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert tiny.train(data, tmp_path / "run", "--max-steps", "12", "--log-interval", "1") == Exit.OK
    curve, _, results = terminal.getvalue().partition("validation o")
    assert "step 12" in results
    assert "validation loss" in results
    assert re.search(r"^ +loss\|.*[.o]", curve, re.MULTILINE)
    assert "loss|" not in (tmp_path / "run" / "log.txt").read_text()


def test_the_config_of_a_run_repeats_it(run: Path, data: Path, tmp_path: Path) -> None:
    options = Options()
    options.read(run / "config")
    assert options.check() == []
    assert load_config(run).data.data_dir == data
    command = (run / "command").read_text().split()
    assert command[:2] == ["python3", "gpt2/train.py"]
    at = command.index("--run-dir")
    command[at + 1] = str(tmp_path / "again")
    assert main(command[2:]) == Exit.OK
    assert tiny.metrics(tmp_path / "again") == tiny.metrics(run)


def refusal(data: Path, run: Path, *more: str) -> UserError:
    """Return the error of a run that must not start, after checking that it left nothing."""
    with pytest.raises(UserError) as error:
        tiny.train(data, run, *more)
    assert not (run / "config").exists()
    return error.value


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--n-head", "3"), "--n-embd 16 cannot be shared by --n-head 3"),
        (("--model", "gpt2", "--block-size", "2048"), "--block-size: 2048 is out of range 1..1024"),
        (("--max-steps", "0"), "no limit ends this run"),
        (("--num-epochs", "0"), "no limit ends this run"),
        (("--learning-rate", "1e-3", "--min-lr", "1"), "--min-lr 1 is above --learning-rate"),
    ],
)
def test_options_that_cannot_be(
    more: tuple[str, ...], said: str, data: Path, tmp_path: Path
) -> None:
    removed = [] if "gpt2" not in more else ["--n-layer", "--n-head", "--n-embd"]
    arguments = tiny.flags(data, tmp_path / "run", "--num-epochs", "0", *more)
    for flag in removed:
        at = arguments.index(flag)
        del arguments[at : at + 2]
    with pytest.raises(UserError, match=r".") as error:
        main(arguments)
    assert said in str(error.value)
    assert error.value.code == Exit.CONFIG
    assert not (tmp_path / "run").exists()


def test_missing_data_names_the_command(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere", tmp_path / "run", "--max-steps", "1")
    assert error.code == Exit.DATA
    assert "prepare_data.py --dataset text" in str(error)


def test_a_short_corpus_is_named(data: Path, tmp_path: Path) -> None:
    error = refusal(data, tmp_path / "run", "--max-steps", "1", "--block-size", "4000")
    assert error.code == Exit.DATA
    assert "train.bin" in str(error)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    own = tiny.make_data(tmp_path / "data")
    path = own / "text" / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    error = refusal(own, tmp_path / "run", "--max-steps", "1")
    assert error.code == Exit.DATA
    assert str(path) in str(error)


def test_another_tokenizer_is_refused(data: Path, tmp_path: Path) -> None:
    error = refusal(data, tmp_path / "run", "--max-steps", "1", "--tokenizer", "gpt2")
    assert error.code == Exit.DATA
    assert "--tokenizer gpt2" in str(error)


def test_a_gpu_that_is_not_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = refusal(data, tmp_path / "run", "--max-steps", "1", "--device", "cuda")
    assert error.code == Exit.CONFIG
    assert "--device auto" in str(error)


def test_a_folder_of_somebody_else_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    error = refusal(data, tmp_path / "run", "--max-steps", "1")
    assert "not a run of this program" in str(error)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("folder", "start", "safe"),
    [
        (".", ["gpt2/train.py"], ""),
        (".", ["gpt2/train.py"], "1"),
        ("gpt2", ["train.py"], ""),
        ("gpt2", ["train.py"], "1"),
        (".", ["-m", "gpt2.train"], ""),
    ],
)
def test_every_way_to_start(folder: str, start: list[str], safe: str) -> None:
    done = subprocess.run(
        [sys.executable, *start, "--check-config", "--batch-size", "32",
         "--gradient-accumulation", "4", "--num-epochs", "2", "--optimizer", "adamw",
         "--pruning-method", "none", "--device", "cuda"],
        cwd=tiny.REPOSITORY / folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONSAFEPATH": safe},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("options are valid; ")


def test_errors_are_lines_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "gpt2/train.py", "--optimzer", "adamw", "--batch-size", "-1"],
        cwd=tiny.REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.CONFIG
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert all(line.startswith("train.py: error: --") or "--optimzer" in line for line in lines)
    assert len(lines) == 2


def test_the_command_that_makes_missing_data_makes_those_that_are_asked_for(tmp_path: Path) -> None:
    text = tmp_path / "in.txt"
    text.write_text("to be or not to be. " * 60)
    flags = tiny.flags(tmp_path / "data", tmp_path / "run", "--max-steps", "1")
    assert "char" in flags
    with pytest.raises(UserError) as caught:
        tiny.main(flags)
    command = shlex.split(str(caught.value).partition("make it with: ")[2])
    words = [str(text) if word == "FILE_OR_FOLDER" else word for word in command[2:]]
    assert prepare_data.main(words) == Exit.OK
    assert tiny.main(flags) == Exit.OK
