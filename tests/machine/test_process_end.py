"""The end of a process, whose last words may hang."""

from __future__ import annotations

import os
import threading
import time

import pytest

from gpt2.config.errors import Exit
from gpt2.machine.process_end import end_process


class EndedError(Exception):
    pass


@pytest.fixture(autouse=True)
def _no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise EndedError(code)

    monkeypatch.setattr(os, "_exit", leave)


def test_the_last_words_are_said_before_the_end() -> None:
    said: list[str] = []

    def speak() -> None:
        time.sleep(0.05)
        said.append("all")

    with pytest.raises(EndedError) as ended:
        end_process(Exit.HANG, speak, 60.0)
    assert ended.value.args == (Exit.HANG,)
    assert said == ["all"]


def test_words_that_hang_keep_no_process() -> None:
    free = threading.Event()
    before = time.monotonic()
    with pytest.raises(EndedError):
        end_process(Exit.MEMORY, lambda: free.wait(60.0), 0.05)
    assert time.monotonic() - before < 30.0
    free.set()
