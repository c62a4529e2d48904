"""What cells get of the machine: which GPU, how much of its memory, how long to save."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpt2.config.errors import Exit
from scripts.study import actions, amd, forecast, machine, process
from scripts.study.folder import MatrixFolder
from scripts.study.machine import Gpu
from scripts.study.memory import Memory, make_plans, predicted_memory
from tests.support.small_cells import cell_record, matrix_record


def test_without_nvidia_smi_the_kernel_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topology of a machine with a CPU (node 0) and two W7900."""
    for node, (simds, minor, name) in enumerate([(0, 0, ""), (96, 129, "gfx1100"), (96, 128, "")]):
        folder = tmp_path / "kfd/kfd/topology/nodes" / str(node)
        folder.mkdir(parents=True)
        (folder / "properties").write_text(f"simd_count {simds}\ndrm_render_minor {minor}\n")
        (folder / "name").write_text(f"{name}\n")
    for minor, used in ((128, 30), (129, 70)):
        folder = tmp_path / f"drm/renderD{minor}/device"
        folder.mkdir(parents=True)
        (folder / "mem_info_vram_total").write_text("100\n")
        (folder / "mem_info_vram_used").write_text(f"{used}\n")
    monkeypatch.setattr(amd, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == [
        Gpu("0", "gfx1100", 100, 30, "renderD129"),
        Gpu("1", "AMD GPU", 100, 70, "renderD128"),
    ]
    assert machine.chosen_gpus("", on_cpu=False) == ["0", "1"]
    (tmp_path / "drm/renderD128/device/mem_info_vram_used").unlink()
    assert [gpu.index for gpu in machine.gpus()] == ["0"]
    monkeypatch.setattr(amd, "ROOT", tmp_path / "none")
    assert machine.gpus() == []


@pytest.mark.parametrize("gpus", [(), ("3", "5")])
def test_short_runs_and_plans_see_the_first_gpu_of_the_matrix(
    gpus: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    class Process:
        def __init__(self, command: Any, here: Any, output: Any, environment: Any) -> None:
            seen.append(("probe", environment.get("CUDA_VISIBLE_DEVICES")))

        def poll(self) -> int:
            return Exit.DATA

        def tail(self) -> str:
            return "no data"

        def kill(self) -> None:
            pass

    def plan(command: Any, env: dict[str, str], **_: Any) -> Any:
        seen.append(("plan", env.get("CUDA_VISIBLE_DEVICES")))
        assert env.get("CUDA_DEVICE_ORDER") == ("PCI_BUS_ID" if gpus else None)
        return subprocess.CompletedProcess(command, 1, "", "")

    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(forecast, "CellProcess", Process)
    monkeypatch.setattr(subprocess, "run", plan)
    record = matrix_record(cell_record(kind="one"), gpus=gpus)
    folder = MatrixFolder(tmp_path)
    (tmp_path / "output").mkdir()
    first = actions._first_gpu(record)
    forecast.probe(folder, record.cells, ["train"], tmp_path, print, first)
    make_plans(folder, record.cells, ["train"], tmp_path, print, first)
    assert seen == [(what, gpus[0] if gpus else None) for what in ("probe", "plan")]


@pytest.mark.parametrize(
    ("costs", "taken"),
    [({"peak_process_bytes": 2_000}, 2_000), ({"peak_process_bytes": 0}, 1_000), ({}, 1_000)],
)
def test_a_cell_is_admitted_by_what_its_process_takes(
    costs: dict[str, int], taken: int, tmp_path: Path
) -> None:
    known = {
        "step_seconds": 1.0, "evaluation_seconds": 1.0, "other_seconds": 1.0,
        "peak_host_bytes": 5, "peak_device_bytes": 1_000,
    }  # fmt: skip
    (tmp_path / "probes.json").write_text(json.dumps({"one": {**known, **costs}}))
    (peak,) = predicted_memory(MatrixFolder(tmp_path), []).values()
    assert peak == Memory(5, taken)


@pytest.mark.slow
def test_a_large_checkpoint_has_longer_to_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.1)
    monkeypatch.setattr(process, "SLOWEST", 1e6)
    code = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print(1, flush=True)"
    code += "; time.sleep(60)"
    ended = []
    for size in (0, 600_000_000):
        output = tmp_path / str(size)
        one = process.CellProcess([sys.executable, "-c", code], tmp_path, output, os.environ, size)
        while not output.read_text():
            time.sleep(0.01)
        one.stop()
        time.sleep(0.15)
        one.poll()
        time.sleep(0.1)
        ended.append(one.poll() is not None)
        one.kill()
        while one.poll() is None:
            time.sleep(0.01)
    assert ended == [True, False]
