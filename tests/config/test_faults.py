"""Fault injection: nothing happens unless GPT2_FAULT asks for it."""

from __future__ import annotations

import ast
import errno
import itertools
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gpt2.config import faults
from gpt2.config.errors import UserError
from tests.conftest import REPOSITORY

CODE = (
    "from gpt2.config import faults\n"
    "for n in range(3): faults.failpoint('checkpoint.tensor'); print(n, flush=True)"
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what the process was armed with, before and after."""
    monkeypatch.delenv("GPT2_FAULT", raising=False)
    monkeypatch.setattr(faults, "_hits", itertools.count(1))
    faults._armed.cache_clear()
    yield
    faults._armed.cache_clear()


def arm(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    monkeypatch.setenv("GPT2_FAULT", plan)
    faults._armed.cache_clear()


def test_the_points_are_those_of_the_code() -> None:
    found = []
    for path in (REPOSITORY / "gpt2").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "faults.failpoint",
                "faults.factor",
            ):
                found.append(ast.literal_eval(node.args[0]))
    assert set(found) == set(faults.POINTS)


@pytest.mark.parametrize("plan", [None, ""])
def test_unset_it_does_nothing(monkeypatch: pytest.MonkeyPatch, plan: str | None) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a fault without GPT2_FAULT")

    monkeypatch.setattr(os, "kill", forbidden)
    monkeypatch.setattr("time.sleep", forbidden)
    if plan is not None:
        arm(monkeypatch, plan)
    for name in faults.POINTS:
        faults.failpoint(name)
        assert faults.factor(name) == 1.0


def test_unset_it_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # The variable is read once: a later change of the environment does not arm a running process.
    faults.failpoint("data.write")
    monkeypatch.setenv("GPT2_FAULT", "data.write:enospc")
    faults.failpoint("data.write")
    assert faults.factor("data.write") == 1.0


@pytest.mark.parametrize(
    ("action", "number"), [("enospc", errno.ENOSPC), ("erofs", errno.EROFS), ("eio", errno.EIO)]
)
def test_only_the_named_point_fails(
    monkeypatch: pytest.MonkeyPatch, action: str, number: int
) -> None:
    arm(monkeypatch, f"data.write:{action}")
    faults.failpoint("data.meta")
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        faults.failpoint("data.write")
    assert caught.value.errno == number


@pytest.mark.parametrize(
    ("when", "acting"),
    [("", [1]), (":2", [2]), (":2+", [2, 3, 4]), (":*", [1, 2, 3, 4]), (":9", [])],
)
def test_when_a_point_acts(monkeypatch: pytest.MonkeyPatch, when: str, acting: list[int]) -> None:
    arm(monkeypatch, f"data.write:x20{when}")
    factors = []
    for _ in range(4):
        faults.factor("data.meta")
        factors.append(faults.factor("data.write"))
    assert [n for n, value in enumerate(factors, 1) if value == 20.0] == acting
    assert set(factors) <= {1.0, 20.0}


def test_factors_that_are_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "data.write:nan")
    assert math.isnan(faults.factor("data.write"))
    monkeypatch.setattr(faults, "_hits", itertools.count(1))
    arm(monkeypatch, "data.write:inf")
    assert faults.factor("data.write") == math.inf


@pytest.mark.parametrize(
    "plan", ["data.write", "nowhere:kill", "data.write:what", "data.write:kill:0", "a:b:c:d"]
)
def test_what_is_misspelt_is_refused(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    arm(monkeypatch, plan)
    with pytest.raises(UserError, match="GPT2_FAULT="):
        faults.failpoint("data.meta")


def test_places_and_numbers_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "data.write:nan:*")
    with pytest.raises(UserError, match="is a place"):
        faults.failpoint("data.write")
    arm(monkeypatch, "data.write:kill:*")
    with pytest.raises(UserError, match="is a number"):
        faults.factor("data.write")


def test_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "data.write:oom")
    with pytest.raises(MemoryError):
        faults.failpoint("data.write")


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
        ("checkpoint.tensor:kill", -signal.SIGKILL, 0),
        ("checkpoint.tensor:kill:3", -signal.SIGKILL, 2),
        ("checkpoint.tensor:kill:4", 0, 3),
        ("checkpoint.tensor:term:2", -signal.SIGTERM, 1),
        ("checkpoint.rename:kill", 0, 3),
    ],
)
def test_the_nth_passing_ends_the_process(plan: str, code: int, passed: int) -> None:
    done = run(plan)
    assert done.returncode == code
    assert done.stdout.split() == [str(n) for n in range(passed)]
