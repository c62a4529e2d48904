"""A signal is answered at once, also while a call outside of Python keeps its handlers waiting."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from gpt2.config.errors import Exit
from gpt2.machine.signals import StopRequest
from tests.conftest import REPOSITORY

#: One call outside of Python that takes many seconds, as a backward pass on a CPU does.
STEP = """
import sys
import torch
from gpt2.machine.signals import StopRequest

def notice(name, again):
    return f"answered {name} {again}"

a = torch.ones(3000, 3000)
torch.set_num_threads(1)
with StopRequest(notice) as stop:
    print("busy", flush=True)
    torch.linalg.multi_dot([a] * 60)  # many seconds in one call
print("done", bool(stop), flush=True)
"""


@pytest.mark.slow
def test_two_ctrl_c_in_one_long_call() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STEP], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "busy\n"
        time.sleep(0.2)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "answered SIGINT False\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "answered SIGINT True\n"
        assert process.wait(timeout=30) == Exit.INTERRUPTED
        assert time.monotonic() - began < 3.0
        assert process.stdout.read() == ""  # the call had not ended


def test_each_signal_is_answered_once(capfd: pytest.CaptureFixture[str]) -> None:
    with StopRequest(lambda name, again: f"{name} {again}") as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert stop.signal == "SIGTERM"
        deadline = time.monotonic() + 5.0
        found = ""
        while found.count("\n") < 2 and time.monotonic() < deadline:
            found += capfd.readouterr().err
            time.sleep(0.01)
    assert found + capfd.readouterr().err == "SIGTERM False\nSIGINT False\n"
    assert signal.set_wakeup_fd(-1) == -1  # put back
