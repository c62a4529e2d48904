"""What a session says of its length, of a short text, and at its end, as a newcomer reads it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from gpt2.config.errors import Exit
from gpt2.planning.duration import Predicted
from gpt2.run_dir.resume import RUNS
from gpt2.session import messages
from tests.support import tiny
from tests.support.planning import configured


def summary(**changes: object) -> str:
    known = {
        "model": "custom", "parameters": 400_000, "block": 64, "attention": "flash kernel",
        "dataset": "text", "tokens": 1_000_000, "device": "cpu", "device_name": "a CPU",
        "precision": "fp32", "threads": 2, "compiled": False, "ranks": 1, "steps": 100,
        "batch": 20, "epochs": 8.03, "max_time": 0, "folder": Path("runs/one"), "kept": None,
        "pruning": None,
    }  # fmt: skip
    return "\n".join(messages.startup_summary({**known, **changes}))


def test_the_length_is_said_in_readings_of_the_text() -> None:
    said = summary()
    assert "100 steps of 20 sequences (1,280 tokens): reads the training text 8.0 times" in said
    assert "reads 12.5% of the training text" in summary(epochs=0.125)
    assert "training text" not in summary(steps=None)
    assert "at most" not in said
    assert "at most 1 min 30 s of training" in summary(max_time=90)


@pytest.mark.slow
def test_a_text_shorter_than_a_step_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tiny.make_data(tmp_path / "few", 110)
    flags = ("--batch-size", "20", "--max-steps", "5", "--sample-tokens", "0")
    assert tiny.train(few, tmp_path / "run", *flags) == Exit.OK
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    tokens = int(line.split("only ")[1].split()[0])
    read = 20 * tiny.BLOCK
    assert tokens < read
    assert f"has only {tokens} tokens, and one step reads {read} (20 sequences of" in line
    assert f"the run reads {5 * read}, so each about {5 * read / tokens:.0f} times" in line
    one = ("--batch-size", "1", *flags[2:])
    assert tiny.train(few, tmp_path / "other", *one) == Exit.OK
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("folder", [RUNS / "20260101-a run", Path("/elsewhere/run")])
def test_the_hints_at_the_end_are_few_and_can_be_pasted(folder: Path) -> None:
    lines = messages._next(folder)
    assert 3 <= len(lines) <= 5
    text = "\n".join(lines)
    for word in ("sample", "report", "docs/tutorial.md"):
        assert word in text
    assert shlex.quote(str(folder).removeprefix(f"{tiny.REPOSITORY}/")) in text
    assert ("make menuconfig" in text) == (folder.parent == RUNS)
    assert (tiny.REPOSITORY / "docs/tutorial.md").is_file()


def test_the_meaning_of_makes_own_error_is_said_under_make_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GPT2_STARTED_BY", raising=False)
    assert messages.make_adds(Exit.PREEMPTED) == []
    assert "Error" not in messages.stopped_at_once(3, RUNS / "one")
    monkeypatch.setenv("GPT2_STARTED_BY", "make")
    means = "which only means: stopped early, can be resumed"
    assert messages.make_adds(Exit.PREEMPTED) == [f'make adds "Error 75", {means}']
    said = messages.stopped_at_once(3, RUNS / "one").splitlines()
    assert said[-1] == f'make adds "Error 130", {means}'
    for nothing in (
        messages.stopped_at_once(None, RUNS / "one"),
        messages.stopping_early("", True),
    ):
        assert "Error 130" in nothing
        assert "can be resumed" not in nothing


def test_a_long_run_on_a_cpu_is_told_of_a_small_model_unless_it_has_one() -> None:
    long = Predicted(training=90_000.0, evaluation=0.0)
    hint = "make defconfig-gpt2-shakespeare-char-cpu && make"
    assert hint in messages.cpu_warning(long, configured("--model gpt2"))[-1]
    small = "--model custom --n-layer 2 --n-head 4 --n-embd 128"
    assert len(messages.cpu_warning(long, configured(small))) == 1
