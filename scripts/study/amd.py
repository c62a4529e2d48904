"""AMD GPUs as the kernel's driver shows them: where there is no nvidia-smi to ask.

The order is that of the topology of KFD, which is the one in which HIP counts, and so torch
(https://rocm.docs.amd.com, "GPU isolation techniques"). Never run on such a machine: what cannot
be read is taken for no GPU, and the cells then run as they would without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Where the kernel shows its devices.
ROOT = Path("/sys/class")


@dataclass(frozen=True)
class Found:
    """A GPU of the topology: its name there, memory in bytes, and what names it for good."""

    name: str
    total: int
    free: int
    identity: str


def amd_gpus() -> list[Found]:
    """Return the AMD GPUs of this machine in HIP's order; none where the driver is not there."""
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
