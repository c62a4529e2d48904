"""The first minutes on a card: `make check-gpu`, or python3 tests/cuda/check_gpu.py [right|fast].

right  parity, syncs, skipped steps, two ranks, kills and resumes, out of memory, the main job
fast   speed beside other loops, chunk sizes, optimizers, pruning, memory beside the plan

Each part takes at most LIMIT seconds (360); what does not fit is left out and said. At the end
stands one Markdown table for docs/benchmarks.md, which OUT (gpu-out) has as table.md, too. DRY=1
goes through it all on a CPU, at toy sizes. Nothing is installed and no network is used: it needs
torch 2.10 or newer and kconfiglib, whose wheel may lie in .wheels. DATA_DIR and DATA_FLAGS name
prepared data (data, --dataset shakespeare), which is made where it is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.cuda.fast import fast  # noqa: E402
from tests.cuda.right import right  # noqa: E402
from tests.cuda.steps import DRY, Check, FailureError  # noqa: E402
from tests.cuda.table import table  # noqa: E402

PARTS = ("right", "fast")
_PROBE = """
import kconfiglib, torch
major, minor = torch.__version__.split(".")[:2]
print((int(major), int(minor)) >= (2, 10), torch.cuda.is_available(), torch.__version__)
"""
_ABOUT = """
import json, torch
from gpt2.machine.device import describe, resolve_device
print(json.dumps(describe(resolve_device("auto"))))
"""


def _refusal(parts: Sequence[str]) -> str | None:
    """Return why nothing can be checked here, if that is so."""
    if unknown := [part for part in parts if part not in PARTS]:
        return f"PART={unknown[0]} is unknown (there are right and fast)"
    command = [sys.executable, "-c", _PROBE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        return f"{sys.executable} lacks a package ({last}): name another PYTHON, or fill .wheels"
    new_enough, there, version = done.stdout.split()
    if new_enough != "True":
        return f"torch {version} is older than 2.10"
    if there != "True" and not DRY:
        return "torch finds no CUDA or ROCm GPU here; DRY=1 goes through the checks on a CPU"
    return None


def main(argv: Sequence[str]) -> int:
    """Go through the parts of `argv`, print the table; return 0 where nothing failed."""
    wheels = [str(path) for path in sorted((REPOSITORY / ".wheels").glob("*.whl"))]
    before = [path for path in [os.environ.get("PYTHONPATH")] if path]
    os.environ |= {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *wheels, *before])}
    parts = argv or PARTS
    if (reason := _refusal(parts)) is not None:
        print(f"check-gpu: error: {reason}", file=sys.stderr)
        return 2
    out = Path(os.environ.get("OUT", "gpu-out")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    checks = []
    runs = Path(tempfile.mkdtemp())
    try:
        limit = float(os.environ.get("LIMIT", "360"))
        for part in parts:
            check = Check(part, runs, out, limit)
            checks.append(check)
            if part == "right" and "DATA_DIR" not in os.environ:
                flags = shlex.split(os.environ.get("DATA_FLAGS", "--dataset shakespeare"))
                check.step("data", 5, lambda c=check, f=flags: _prepared(c, f))
            (right if part == "right" else fast)(check)
        about = {}
        with contextlib.suppress(FailureError):
            about = json.loads(checks[0].run("-c", _ABOUT).splitlines()[-1])
        text = table(about, [row for check in checks for row in check.rows], dry=DRY)
        (out / "table.md").write_text(text + "\n", encoding="utf-8")
        print(text)
    finally:
        shutil.rmtree(runs, ignore_errors=True)
    return int(any(check.failed for check in checks))


def _prepared(check: Check, flags: Sequence[str]) -> str:
    return check.run("gpt2/prepare_data.py", *flags).strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
