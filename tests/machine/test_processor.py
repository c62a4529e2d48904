"""What is read of the processor, from Linux's file or without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from gpt2.machine import processor


def put(text: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have /proc/cpuinfo hold `text`; None takes it away."""
    path = folder / "cpuinfo"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(processor, "_INFORMATION", path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags : fpu avx2\n", False),
        ("flags : fpu avx512_bf16_of_another_name\n", False),
        ("flags : avx2 avx512_bf16\n", True),
        ("flags : amx_bf16 amx_tile\n", True),
        ("Features : asimd bf16 sve\n", True),
        (None, False),
    ],
)
def test_bf16(
    text: str | None, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(text, tmp_path, monkeypatch)
    assert processor.has_bf16() is found


def test_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("processor : 0\nmodel name : One: a chip\nmodel name : Two\n", tmp_path, monkeypatch)
    assert processor.processor_name() == "One: a chip"
    put(None, tmp_path / "none", monkeypatch)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert processor.processor_name() == "riscv64"


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert processor.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert processor.cores() == 9
