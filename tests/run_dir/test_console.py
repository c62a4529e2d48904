"""The bar and the colours of a terminal, and what goes elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from gpt2.config.colour import painted
from gpt2.run_dir import console as module
from gpt2.run_dir.console import Console
from tests.support.terminal import Terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_the_bar_moves_four_times_a_second_and_leaves_the_log_alone(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, log = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = Console(log)
    console.begin(0.0)
    for step in range(1, 41):  # 20 steps a second
        console.move(step / 40, f"step {step}/40")
        clock[0] += 0.05
    shown = [step for step in range(1, 41) if f"step {step}/40" in terminal.getvalue()]
    assert 7 <= len(shown) <= 9
    console.phase("evaluating ...", begins=True)
    console.phase("evaluating ... 1%")  # too soon
    clock[0] += 0.3
    console.phase("evaluating ... 2%")
    console.end()
    console.phase("nothing", begins=True)
    said = terminal.getvalue()
    assert "evaluating ... 2%" in said
    assert "evaluating ... 1%" not in said
    assert "nothing" not in said
    assert log.getvalue() == ""


def test_the_line_of_the_last_step_stays(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, log = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = Console(log)
    console.begin(0.0)
    console.progress(1.0, "step 9/9  loss 1.0")
    clock[0] += 1.0
    console.phase("writing a sample ... 61%")
    console.end()
    last = terminal.getvalue().rstrip("\n").rpartition("\r")[2]
    assert "step 9/9  loss 1.0" in last
    assert log.getvalue() == "step 9/9  loss 1.0\n"


def test_the_bar_never_steps_back(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C the step that was shown last stays, not that of the last line in the log."""
    terminal, log = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = Console(log)
    console.begin(0.0)
    for fraction, text in ((0.40, "step 400/1000"), (0.42, "step 420/1000")):
        clock[0] += 1.0
        (console.progress if text == "step 400/1000" else console.move)(fraction, text)
    clock[0] += 1.0
    console.phase("saving the checkpoint of step 421 ...", begins=True)
    console.progress(0.41, "step 421/1000")  # the clock of all ranks may be behind
    console.end()
    frames = terminal.getvalue().split("\r")
    percents = [int(frame.split("%")[0]) for frame in frames if "%" in frame]
    assert percents == sorted(percents)
    assert "step 421/1000" in frames[-1]
    assert log.getvalue() == "step 400/1000\nstep 421/1000\n"


def test_without_a_terminal_only_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err, log = io.StringIO(), io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    console = Console(log)
    console.begin(0.0)
    console.move(0.1, "step 1/10")
    console.phase("evaluating ...", begins=True)
    console.progress(0.2, "step 2/10  loss 1.0")
    console.say("done", bold=True)
    console.warn("mind this")
    assert out.getvalue() == "step 2/10  loss 1.0\ndone\n"
    assert err.getvalue() == "warning: mind this\n"
    assert log.getvalue() == "step 2/10  loss 1.0\ndone\nwarning: mind this\n"


def test_colour_is_for_terminals_and_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert painted("error:", "red", Terminal()) == "\x1b[1;31merror:\x1b[0m"
    assert painted("error:", "red", io.StringIO()) == "error:"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert painted("error:", "red", Terminal()) == "error:"


@pytest.mark.parametrize(("encoding", "dots"), [("utf-8", True), ("ascii", False)])
def test_the_loss_curve_is_for_a_terminal_in_what_its_locale_has(
    encoding: str, dots: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"step": n, "loss": 4.0 - n / 10} for n in range(20)]
    log = io.StringIO()
    monkeypatch.setattr(Terminal, "encoding", encoding, raising=False)
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("TERM", "xterm")
        Console(log).curve(lines)
        Console(log, silent=True).curve(lines)
        monkeypatch.setenv("TERM", "dumb")
        Console(log).curve(lines)
        said = stream.getvalue()
        assert said.count("step 19") == int(stream.isatty())
        assert any(ord(char) > 0x2800 for char in said) == (dots and stream.isatty())
    assert log.getvalue() == ""
