"""The configuration without a .config: the same for `make`, the menus and explain."""

from __future__ import annotations

import sys
from pathlib import Path

from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY, ROOT_TREE

GPU_DEFCONFIG = "gpt2-shakespeare-l4"
CPU_DEFCONFIG = "gpt2-shakespeare-char-cpu"
DEFCONFIGS = REPOSITORY / "defconfigs"


def fitting_defconfig(quiet: bool = False) -> Path:
    """Return the defconfig for this machine, and print which and why on stderr."""
    import torch

    if torch.cuda.is_available():
        name, why = GPU_DEFCONFIG, "a GPU"
    else:
        name, why = CPU_DEFCONFIG, "no GPU"
    if not quiet:  # one line of a terminal
        print(
            f"no .config: taking defconfigs/{name} ({why}); others: make list-defconfigs",
            file=sys.stderr,
        )
    return DEFCONFIGS / name


def read_or_start(config: Path) -> Options:
    """Read `config`; if it does not exist, read the defconfig that `make` would use.

    Raises UserError when it cannot be read.
    """
    options = Options(ROOT_TREE)
    options.read(config if config.exists() else fitting_defconfig())
    return options
