"""Fault injection: nothing happens unless GPT2_FAULT asks for it."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import REPOSITORY

from gpt2.config import faults

CODE = "from gpt2.config import faults\nfor n in range(3): faults.point('a'); print(n, flush=True)"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what the process was armed with, before and after."""
    monkeypatch.delenv("GPT2_FAULT", raising=False)
    monkeypatch.setattr(faults, "_passings", itertools.count(1))
    faults._armed.cache_clear()
    yield
    faults._armed.cache_clear()


def arm(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    monkeypatch.setenv("GPT2_FAULT", plan)
    faults._armed.cache_clear()


@pytest.mark.parametrize("plan", [None, ""])
def test_unset_it_does_nothing(monkeypatch: pytest.MonkeyPatch, plan: str | None) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a fault without GPT2_FAULT")

    monkeypatch.setattr(os, "kill", forbidden)
    if plan is not None:
        arm(monkeypatch, plan)
    for name in ("checkpoint.rename", "", "a"):
        if name:
            faults.point(name)


def test_unset_it_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # The variable is read once: a later change of the environment does not arm a running process.
    faults.point("a")
    monkeypatch.setenv("GPT2_FAULT", "a:enospc")
    faults.point("a")


def test_only_the_named_point_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "a:enospc")
    faults.point("b")
    with pytest.raises(OSError, match="No space left") as caught:
        faults.point("a")
    assert caught.value.errno == errno.ENOSPC


def test_a_point_fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "a:enospc:2")
    faults.point("a")
    faults.point("b")
    with pytest.raises(OSError, match="No space left"):
        faults.point("a")
    faults.point("a")


def run(plan: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=REPOSITORY,
        env={**os.environ, "GPT2_FAULT": plan},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("plan", "code", "passed"),
    [
        ("a:kill", -signal.SIGKILL, 0),
        ("a:kill:3", -signal.SIGKILL, 2),
        ("a:kill:4", 0, 3),
        ("a:term:2", -signal.SIGTERM, 1),
        ("b:kill", 0, 3),
        ("a:what", 1, 0),
    ],
)
def test_the_nth_passing_fails(plan: str, code: int, passed: int) -> None:
    done = run(plan)
    assert done.returncode == code
    assert done.stdout.split() == [str(n) for n in range(passed)]
    assert ("unknown action" in done.stderr) == (plan == "a:what")
