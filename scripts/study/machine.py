"""The machine's resources for cells: memory, disk, and GPUs by their driver."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.config.text import items
from gpt2.machine.host_memory import Host, HostMemory
from scripts.study.amd import amd_gpus

_QUERY = "index,uuid,name,memory.total,memory.free"


@dataclass(frozen=True)
class Gpu:
    """A GPU: `index` is for CUDA_VISIBLE_DEVICES with CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Memory in bytes; None where the driver does not report it.
    """

    index: str
    name: str
    total: int | None
    free: int | None
    uuid: str


def host_memory() -> HostMemory | None:
    """Return the memory of the host, or of the tightest control group; None if unknown."""
    host = Host()
    pools = host.pools() if host.watched else []
    return min(pools, key=lambda pool: pool.available - pool.floor, default=None)


def disk_free(folder: Path) -> int:
    """Return the bytes free on the disk of a folder, or of its first existing parent."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def gpus() -> list[Gpu]:
    """Return the GPUs of this machine; none without a driver.

    NVIDIA's by nvidia-smi; without that, AMD's by the files of their driver.
    """
    if shutil.which("nvidia-smi") is None:
        return [
            Gpu(str(index), gpu.name, gpu.total, gpu.free, gpu.identity)
            for index, gpu in enumerate(amd_gpus())
        ]
    rows = _ask(f"--query-gpu={_QUERY}")
    return [
        Gpu(index, name, _mebibytes(total), _mebibytes(free), uuid)
        for index, uuid, name, total, free in (row for row in rows if len(row) == 5)
    ]


def _mebibytes(text: str) -> int | None:
    try:
        return int(float(text) * 2**20)
    except (ValueError, OverflowError):  # "[N/A]": memory shared with the host, or no permission
        return None


def environment_on(gpu: str) -> dict[str, str]:
    """Return the environment of a process on one GPU; ours where `gpu` is "".

    By default CUDA numbers cards by speed, nvidia-smi by the bus.
    """
    chosen = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu}
    return {**os.environ, **(chosen if gpu else {})}


def gpu_users(uuid: str) -> str:
    """Return the processes on a GPU: "process 7 (python), 5000 MiB"; empty if none."""
    rows = _ask("--query-compute-apps=gpu_uuid,pid,process_name,used_memory")
    found = [row[1:] for row in rows if len(row) == 4 and row[0] == uuid]
    return "; ".join(f"process {pid} ({name}), {used} MiB" for pid, name, used in found)


def _ask(query: str) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [row for row in rows if row] if done.returncode == 0 else []


def chosen_gpus(asked: str, on_cpu: bool) -> list[str]:
    """Return the GPUs to use, in terms of CUDA_VISIBLE_DEVICES; empty: the CPU, or unknown.

    Without GPUS= they are those of CUDA_VISIBLE_DEVICES, or all. Raises UserError for a wrong one.
    """
    if asked and on_cpu:
        raise UserError(f"GPUS={asked}: the cells run on the CPU (--device cpu)")
    if on_cpu:
        return []
    there = [gpu.index for gpu in gpus()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    words = items(asked or visible)
    if asked and (wrong := [word for word in words if there and word not in there]):
        raise UserError(f"GPUS={asked}: no GPU {wrong[0]}; there are {', '.join(there)}")
    if asked and (len(set(words)) < len(words) or not all(map(str.isalnum, words))):
        raise UserError(f"GPUS={asked} must name each GPU once, by its number: GPUS=0,1")
    return words or there
