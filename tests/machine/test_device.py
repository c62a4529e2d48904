"""Memory that a step frees: kept for the next one, and given back when asked."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gpt2.config.errors import UserError
from gpt2.machine import device

REPOSITORY = Path(__file__).resolve().parents[2]

#: Allocates and writes 128 MiB in blocks that are kept, and frees them all.
SCRIPT = """
import json, resource, torch
from gpt2.machine.device import give_back_freed_memory, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2 * 2**20) for _ in range(16)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = {"first": faults(), "not kept": faults()}
keep_freed_memory(torch.device("cuda"))
found["not for a GPU"] = faults()
keep_freed_memory(torch.device("cpu"))
faults()
found["kept"] = faults()
give_back_freed_memory()
found["given back"] = faults()
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_costs_no_page_faults_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = json.loads(done.stdout)
    assert found.pop("kept") < 20
    # Of 4 KiB, or a few large pages where the system makes them.
    assert min(found.values()) >= 40, found


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_compiled_kernels_are_promised_no_bits(kind: str, deterministic: bool) -> None:
    place = torch.device(kind)
    assert device.determinism(place, True, deterministic, False) == "statistical"
    bits = kind == "cpu" or (kind == "cuda" and deterministic)
    found = device.determinism(place, False, deterministic, False)
    assert found == ("bitwise" if bits else "statistical")


def test_a_gpu_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert device.resolve_device("cuda", 0) == torch.device("cuda")
    assert current == []
    assert device.resolve_device("cuda", 1) == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]  # torch's generators, caches and Triton go by it
    with pytest.raises(UserError, match="--device cuda:2: torch sees cuda:0 to cuda:1; use one"):
        device.resolve_device("cuda", 2)
    assert device.resolve_device("cpu", 1) == torch.device("cpu")


def test_a_process_takes_reserve_and_context(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    facts = {"max_memory_allocated": 1000, "max_memory_reserved": 1200, "memory_reserved": 1100}
    for name, value in facts.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 * 2**30 - 1100 - 500, 8 * 2**30))
    peak = device.peak_memory(cuda)
    assert (peak["peak_device_bytes"], peak["peak_process_bytes"]) == (1000, 1700)
    # Another process holds half of the card: no context is so large.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4 * 2**30, 8 * 2**30))
    assert device.peak_memory(cuda)["peak_process_bytes"] == 1200 + 2**30
    peak = device.peak_memory(torch.device("cpu"))
    assert (peak["peak_device_bytes"], peak["peak_process_bytes"]) == (0, 0)


def test_run_json_tells_the_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = SimpleNamespace(major=9, minor=0, total_memory=85, multi_processor_count=132)
    (tmp_path / "version").write_text("580.65.06\n")
    monkeypatch.setattr(device, "_DRIVERS", (tmp_path / "none", tmp_path / "version"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 PCIe")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91500)
    found = device.describe(torch.device("cuda"))
    assert found["device_name"] == "NVIDIA H100 PCIe"
    assert found["versions"]["cudnn"] == 91500
    assert found["gpu"] == {
        "capability": "9.0",
        "memory_bytes": 85,
        "multiprocessors": 132,
        "driver": "580.65.06",
    }
    assert device.describe(torch.device("cpu"))["gpu"] is None
