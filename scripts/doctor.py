"""Report whether this machine can train, and what is missing: a verdict, then a line per part.

It installs nothing and needs only Python; torch is used only if installed. The exit code is 2 when
something that training needs is missing, else 0.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import continue_in_venv

    continue_in_venv()  # `make` uses .venv, so its packages count

from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError
from gpt2.config.sizes import show_size
from gpt2.config.text import first_line
from gpt2.machine.host_memory import Host
from gpt2.machine.processor import has_bf16
from scripts.environment import OLDEST_TORCH, missing, new_enough, requirements
from scripts.study.machine import disk_free

if TYPE_CHECKING:
    import torch

REPOSITORY = Path(__file__).resolve().parents[1]
#: The development package that has other uses, too.
OPTIONAL = {
    "transformers": "no comparison with it in the bench, fewer tests; training is the same",
    "tkinter": "no 'make guiconfig' (Debian: python3-tk); 'make menuconfig' is the same menu",
}
#: Bytes below which memory and disk are reported as little.
LEAST_MEMORY, LEAST_DISK = 4 * 10**9, 8 * 10**9


@dataclass(frozen=True)
class Finding:
    """One line: the part, what was found, and what its lack costs (empty: nothing).

    `needed`: training cannot start without it. `mark` is the first word of a line with a cost.
    """

    what: str
    found: str
    cost: str = ""
    needed: bool = False
    mark: str = "missing"

    def __str__(self) -> str:
        """Return the line."""
        mark = "MISSING" if self.needed else self.mark if self.cost else "ok"
        return f"{mark:10}{self.what:14}{self.found}" + (f": {self.cost}" if self.cost else "")


def findings() -> Iterator[Finding]:
    """Yield all findings about the machine."""
    yield python()
    yield from packages()
    yield from torch_findings()
    yield compiler()
    yield memory()
    yield disk(REPOSITORY / "runs")
    yield from optional()


def _whether(package: str, cost: str) -> tuple[str, str]:
    """Return whether a package is installed, and `cost` if it is not."""
    there = importlib.util.find_spec(package) is not None
    return ("installed", "") if there else ("not installed", cost)


def python() -> Finding:
    """Check the running Python."""
    version = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs on whatever Python there is
        return Finding("Python", version, "3.11 or newer is needed: make PYTHON=python3.11", True)
    return Finding("Python", f"{version} ({sys.executable})")


def packages() -> Iterator[Finding]:
    """Compare the installed packages with requirements.txt."""
    runtime = requirements("runtime")
    for name in missing(runtime):
        if not name.startswith("torch="):  # torch has its own lines
            cost = "training needs it; the next 'make' installs it into .venv"
            yield Finding("package", f"{name} not installed", cost, needed=True)


def optional() -> Iterator[Finding]:
    """Check the packages that targets install when needed, in one line."""
    runtime, report = requirements("runtime"), requirements("report")
    others = {
        k: v for k, v in requirements("development").items() if k not in {*runtime, *OPTIONAL}
    }
    names = [line.split("==")[0] for line in missing(others)]
    parts = {
        "make report": [name for name in names if name in report],
        "make check": [name for name in names if name not in report],
    }
    found = "; ".join(f"for '{who}': {', '.join(lack)}" for who, lack in parts.items() if lack)
    if found:
        yield Finding("packages", found, "installed when they are needed", mark="optional")
    else:
        yield Finding("packages", "those of 'make report' and 'make check' are there")
    for name, cost in OPTIONAL.items():
        there, lack = _whether(name, cost)
        yield Finding(name, there, lack, mark="optional")


def torch_findings() -> Iterator[Finding]:
    """Check torch and, through it, the GPUs."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its shared libraries is missing
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        cost = "training needs it; the next 'make' installs it into .venv"
        yield Finding("torch", f"cannot be used ({reason})", cost, needed=True)
        return
    version = str(torch.__version__)
    build = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    if not (torch.version.hip or torch.version.cuda):
        build = "built for CPUs only"
    if not new_enough(version):
        oldest = ".".join(str(part) for part in OLDEST_TORCH)
        yield Finding("torch", version, f"{oldest} or newer is needed", needed=True)
        return
    yield Finding("torch", f"{version}, {build}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield from _gpu(index)
        cost = "--compile continues without compiling, and says so"
        yield Finding("triton", *_whether("triton", cost))
        return
    if torch.backends.mps.is_available():
        yield Finding("GPU", "Apple's, through mps")
    else:
        cost = "training runs on the CPU, which is enough for small models; 124M takes days"
        yield Finding("GPU", "none that this torch can use", cost)
    yield _bf16_of_cpu()
    yield Finding("flash kernels", "torch's own for the CPU")


def _bf16_of_cpu() -> Finding:
    """Check this CPU for bf16, and for its measurement."""
    if not has_bf16():
        cost = "--precision bf16 would be emulated, a hundred times slower; auto takes fp32"
        return Finding("bf16", "not in this CPU", cost)
    from gpt2.planning.calibration import LEAST_WIDTH, kept_choice

    try:
        choice = kept_choice(LEAST_WIDTH)
    except UserError as error:
        return Finding("bf16", "in this CPU", error.messages[0])
    return Finding("bf16", f"in this CPU; auto takes {choice.precision}, as {choice.why}")


def _gpu(index: int) -> Iterator[Finding]:
    import torch

    about = torch.cuda.get_device_properties(index)
    yield Finding(f"GPU {index}", f"{about.name}, {show_size(about.total_memory)}")
    with torch.cuda.device(index):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    cost = "--precision auto takes fp16 with loss scaling, which skips some steps"
    yield Finding("bf16", f"{'' if native else 'not '}in GPU {index}", "" if native else cost)
    yield _attention(index, torch.bfloat16 if native else torch.float16)


def _attention(index: int, dtype: torch.dtype) -> Finding:
    """Check which kernel torch uses for attention on a GPU."""
    import torch
    from torch.nn.attention import SDPBackend

    try:
        query = torch.empty((1, 12, 256, 64), dtype=dtype, device=torch.device("cuda", index))
        kernel = SDPBackend(torch._fused_sdp_choice(query, query, query, is_causal=True))
    except RuntimeError as error:  # such as a card without free memory
        cost = f"no tensor can be made there: {first_line(error)}"
        return Finding("flash kernels", f"unknown for GPU {index}", cost)
    cost = "attention takes torch's plain kernel: slower, and each layer keeps all its scores"
    plain = kernel in (SDPBackend.MATH, SDPBackend.ERROR)
    name = kernel.name.removesuffix("_ATTENTION").lower()
    return Finding("flash kernels", f"{name} for GPU {index}", cost if plain else "")


def compiler() -> Finding:
    """Check what torch.compile needs: a C++ compiler and Python's header files."""
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    cost = "--compile continues without compiling, and says so"
    if found is None:
        return Finding("compiler", "no g++ or clang++", cost)
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return Finding("compiler", f"{found}, but no Python.h (python3-dev)", cost)
    return Finding("compiler", found)


def memory() -> Finding:
    """Check the host's memory and the limit of the control group."""
    host = Host()
    if not host.watched:
        return Finding("RAM", "unknown: this system has no /proc", "host memory is not watched")
    machine, limit = host.pools()[0].total, host.total()
    found = f"{show_size(machine)}"
    if limit < machine:
        found += f", of which this control group may use {show_size(limit)}"
    cost = "the 124M model needs about 4 GB on a CPU: take gpt2-mini or characters"
    return Finding("RAM", found, cost if limit < LEAST_MEMORY else "", mark="little")


def disk(runs: Path) -> Finding:
    """Check the disk space for run directories."""
    free = disk_free(runs)
    cost = "a run of the 124M model keeps up to 5 GB of checkpoints"
    lack = cost if free < LEAST_DISK else ""
    return Finding("disk", f"{show_size(free)} free for runs/", lack, mark="little")


def main() -> int:
    """Print the verdict and the findings; 2 when something that training needs is missing."""
    found = list(findings())
    lacking = [finding.what for finding in found if finding.needed]
    if lacking:
        print(f"training cannot start; missing: {', '.join(dict.fromkeys(lacking))}")
    else:
        print("all is well: this machine can train")
    for finding in found:
        print(finding)
    return Exit.CONFIG if lacking else Exit.OK


if __name__ == "__main__":
    run_entry("doctor.py", main)
