"""Environment variables that can only harm a run: removed at the start.

Other variables of libraries are left to the user, or hidden where the library starts: see the table
in docs/decisions.md.
"""

from __future__ import annotations

import os

#: Names, or prefixes that end in an underscore, with the reason.
REMOVED = {
    "MPLBACKEND": "matplotlib: that of a notebook is unknown to its children; we draw into files",
    "MATPLOTLIBRC": "matplotlib: a report looks the same for everybody",
    "TQDM_": "tqdm: a value that is no number stops whoever shows a bar",
    "NVIDIA_TF32_OVERRIDE": "cuBLAS: fp32 is TF32 with 1, whatever --precision says",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "torch: the same",
    "ONEDNN_DEFAULT_FPMATH_MODE": "oneDNN: fp32 products are bf16 on CPUs that have it",
    "DNNL_DEFAULT_FPMATH_MODE": "oneDNN: its older name",
}


def remove_harmful() -> None:
    """Remove these variables for this process and its children."""
    for name in list(os.environ):
        if any(name == one or (one.endswith("_") and name.startswith(one)) for one in REMOVED):
            del os.environ[name]


def started_by_make() -> bool:
    """Return whether the Makefile started this process; make then reports its exit code, too."""
    return os.environ.get("GPT2_STARTED_BY") == "make"
