"""What doctor.py says of a machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt2.config.errors import Exit
from gpt2.machine.host_memory import Host
from scripts import doctor
from tests.conftest import REPOSITORY

Captured = pytest.CaptureFixture[str]


def told(capsys: Captured) -> tuple[int, dict[str, str]]:
    """The exit code, and the lines by what they are about; `first` is the verdict."""
    code = doctor.main()
    first, *lines = capsys.readouterr().out.splitlines()
    found = {"first": first}
    for line in lines:
        assert line.split()[0] in ("ok", "missing", "little", "optional", "MISSING"), line
        about = line[10:24].strip()
        found[about] = found.get(about, "") + line + "\n"
    return code, found


def test_every_part_has_a_line(capsys: Captured) -> None:
    code, found = told(capsys)
    assert code == Exit.OK
    assert found["first"] == "all is well: this machine can train"
    for about in ("Python", "torch", "bf16", "flash kernels", "compiler", "RAM", "disk"):
        assert about in found
    assert any(about.startswith("GPU") for about in found)
    for name in doctor.OPTIONAL:
        assert name in found
    del found["first"]
    for name in ("packages", *doctor.OPTIONAL):
        assert found.pop(name).startswith(("ok", "optional"))
    for line in "".join(found.values()).splitlines():
        # What is missing says what it costs; what is there costs nothing.
        assert (": " in line) == (not line.startswith("ok")), line


#: Runs the script by a Python that says it is 3.10, and has no typing.Self as that one.
OLDER_PYTHON = """
import builtins, runpy, sys
def load(name, globals=None, locals=None, fromlist=(), level=0, usual=__import__):
    if name == "typing" and "Self" in (fromlist or ()):
        raise ImportError("cannot import name 'Self' from 'typing'")
    return usual(name, globals, locals, fromlist, level)
builtins.__import__ = load
sys.version_info = (3, 10, 0, "final", 0)
sys.modules["torch"] = None
runpy.run_path("scripts/doctor.py", run_name="__main__")
"""


def test_an_older_python_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OLDER_PYTHON],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.CONFIG
    assert done.stderr == ""
    verdict, first = done.stdout.splitlines()[:2]
    assert verdict.startswith("training cannot start; missing: Python")
    assert "3.11 or newer is needed" in first


def test_without_torch_training_cannot_start(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    code, found = told(capsys)
    assert code == Exit.CONFIG
    assert found["torch"].startswith("MISSING")
    assert "training needs it" in found["torch"]
    assert found["first"] == "training cannot start; missing: torch"
    assert "RAM" in found  # the rest is looked at all the same


def test_a_missing_package_is_named(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = doctor.requirements("runtime")
    monkeypatch.setattr(
        doctor, "missing", lambda lines: [lines["numpy"]] if lines == runtime else []
    )
    code, found = told(capsys)
    assert code == Exit.CONFIG
    assert found["package"].startswith("MISSING")
    assert runtime["numpy"] in found["package"]


def test_tools_of_development_are_no_need(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "missing", lambda lines: [v for k, v in lines.items() if k in ("ruff", "pytest")]
    )
    code, found = told(capsys)
    assert code == Exit.OK
    (line,) = found["packages"].splitlines()
    assert line.startswith("optional")
    assert "for 'make check': " in line
    assert "ruff" in line
    assert "pytest" in line


def test_a_gpu_is_described(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def empty(*_: object, **__: object) -> object:
        if kernel == "unknown":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate")
        return object()

    monkeypatch.setattr(torch, "empty", empty)
    kernels = (
        (3, "cudnn", True),
        (2, "efficient", True),
        (0, "math", False),
        (0, "unknown", False),
    )
    for choice, kernel, flash in kernels:
        about = SimpleNamespace(name="A card", total_memory=24 * 10**9)
        monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_, c=choice, **__: c)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index, a=about: a)
        monkeypatch.setattr(torch.cuda, "device", lambda index: memoryview(b""))
        native = {"including_emulation": flash}
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, n=native: n[
                "including_emulation"
            ] and not including_emulation
        )  # fmt: skip
        _, found = told(capsys)
        assert "A card, 24.00 GB" in found["GPU 0"]
        assert found["bf16"].startswith("ok" if flash else "missing")
        assert found["flash kernels"].startswith("ok" if flash else "missing")
        assert f"{kernel} for GPU 0" in found["flash kernels"]


def test_no_compiler_costs_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "--compile" in doctor.compiler().cost
    compiler = tmp_path / "clang++"
    compiler.write_text("")
    compiler.chmod(0o755)
    assert str(compiler) in doctor.compiler().found
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in doctor.compiler().found
    (tmp_path / "Python.h").write_text("")
    assert doctor.compiler().cost == ""


def test_little_memory_and_disk_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Host, "total", lambda self: 2 * 10**9)
    assert "may use 2.00 GB" in doctor.memory().found
    assert doctor.memory().cost
    usage = namedtuple("usage", "total used free")
    for free, costs in ((1, True), (500, False)):
        answer = usage(0, 0, free * 10**9)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, a=answer: a)
        assert bool(doctor.disk(tmp_path / "not" / "there").cost) == costs
