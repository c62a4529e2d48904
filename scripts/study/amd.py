"""AMD GPUs by the kernel driver's files, for machines without nvidia-smi.

The order is KFD's topology, which is also HIP's and so torch's (https://rocm.docs.amd.com, "GPU
isolation techniques"). This was never run on such a machine: GPUs that cannot be read are ignored,
and the cells then run as without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: The kernel's folder of devices.
ROOT = Path("/sys/class")


@dataclass(frozen=True)
class Found:
    """A GPU of the topology: its name there, memory in bytes, and its permanent id."""

    name: str
    total: int
    free: int
    identity: str


def amd_gpus() -> list[Found]:
    """Return the AMD GPUs of this machine in HIP's order; none without the driver."""
    nodes = (ROOT / "kfd/kfd/topology/nodes").glob("[0-9]*")
    found = [_gpu(node) for node in sorted(nodes, key=lambda node: int(node.name))]
    return [gpu for gpu in found if gpu is not None]


def _gpu(node: Path) -> Found | None:
    """Return the GPU of a node of the topology; None for a CPU, or where a file is missing."""
    try:
        lines = (node / "properties").read_text().splitlines()
        values = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
        if not values.get("simd_count"):
            return None
        minor = values["drm_render_minor"]
        device = ROOT / f"drm/renderD{minor}/device"
        total = int((device / "mem_info_vram_total").read_text())
        used = int((device / "mem_info_vram_used").read_text())
        name = (node / "name").read_text().strip()
    except (OSError, ValueError, KeyError):
        return None
    return Found(name or "AMD GPU", total, total - used, f"renderD{minor}")
