"""A matrix of tiny true runs for tests that interrupt it, and its results without measured ones."""

from __future__ import annotations

import csv
from pathlib import Path

from scripts.reports.text import MEASURED

_CONFIG = """
CONFIG_DATASET_TEXT=y
CONFIG_TOKENIZER_CHAR=y
CONFIG_DATA_DIR="{data}"
CONFIG_MODEL_CUSTOM=y
CONFIG_N_LAYER=2
CONFIG_N_HEAD=2
CONFIG_N_EMBD=16
CONFIG_BLOCK_SIZE=8
CONFIG_BATCH_SIZE=4
CONFIG_SAMPLE_TOKENS=0
CONFIG_DEVICE_CPU=y
CONFIG_NUM_THREADS=1
CONFIG_MATRIX_SPARSITIES="0.5"
CONFIG_MATRIX_CONTROLS=n
"""


def config(data: Path, *more: str) -> str:
    """Return a .config of a matrix on the corpus in `data`; `more` are symbols with values."""
    return _CONFIG.format(data=data) + "".join(f"CONFIG_{symbol}\n" for symbol in more)


def results(out: Path) -> list[dict[str, str]] | None:
    """Return results.csv of the matrix in `out` without measured columns; None without it."""
    path = out / "results.csv"
    if not path.exists():
        return None
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
