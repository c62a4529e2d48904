"""A warm process is as a cold one: arguments, environment, folder, output, exit, its own death."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import warm

#: As are those that start processes so: the first of them starts the server.
pytestmark = pytest.mark.slow

SHOW = """
import os, sys, signal
print(sys.argv, os.getcwd(), os.environ.get("WORD"), os.environ.get("HOME"), __name__)
print(sys.path[0], signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGCHLD))
print(sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else "")
print("said", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("form", ["code", "script"])
def test_it_is_as_a_cold_one(form: str, tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    arguments = ["-c", SHOW] if form == "code" else [str(script)]
    arguments += ["3", "a b"]
    env = {"WORD": "w", "PATH": "/usr/bin:/bin"}
    found = warm.run(arguments, env, cwd=tmp_path)
    cold = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (3, "said\n")
    assert found.stdout == cold.stdout


def test_state_is_its_own() -> None:
    """What a process has changed or kept, the next one does not see, faults among it."""
    code = (
        "import sys; sys.path.insert(0, '.'); from gpt2.config import faults\n"
        "faults.failpoint('data.meta'); faults.failpoint('data.meta'); sys.here = True\n"
    )
    assert warm.run(["-c", code], {"GPT2_FAULT": "data.meta:kill:2"}).returncode == -9
    assert warm.run(["-c", code], {}).returncode == 0
    assert warm.run(["-c", code], {"GPT2_FAULT": "data.meta:kill:3"}).returncode == 0
    assert warm.run(["-c", "import sys; sys.here"], {}).returncode == 1


def test_a_traceback_and_an_exit_handler() -> None:
    done = warm.run(["-c", "import atexit; atexit.register(print, 'bye'); 1 / 0"], {})
    assert (done.returncode, done.stdout) == (1, "bye\n")
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_one_and_no_other(number: signal.Signals) -> None:
    both = [
        warm.Process(["-c", "import time; time.sleep(60)"], warm.REPOSITORY, {}) for _ in range(2)
    ]
    both[0].send_signal(number)
    assert both[0].wait(30) == -number
    assert both[1].poll() is None
    both[1].send_signal(signal.SIGINT)
    assert both[1].wait(30) == -signal.SIGINT
    assert "KeyboardInterrupt" in both[1].output()[1]


def test_one_that_does_not_end_in_time_is_killed() -> None:
    process = warm.Process(["-c", "import time; time.sleep(60)"], warm.REPOSITORY, {})
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    assert process.wait(30) == -signal.SIGKILL
    process.send_signal(signal.SIGTERM)  # to nobody
    assert process.poll() == -signal.SIGKILL


def test_ranks_have_their_places_and_one_failure_ends_all() -> None:
    code = (
        "import os, sys, time\n"
        "print(os.environ['RANK'], os.environ['LOCAL_RANK'], os.environ['WORLD_SIZE'])\n"
        "sys.stdout.flush()\n"
        "if os.environ['RANK'] == '1': sys.exit(4)\n"
        "time.sleep(60)\n"
    )
    done = warm.run_ranks(3, ["-c", code], {})
    assert done.returncode == 1
    assert "1 1 3" in done.stdout.splitlines()
