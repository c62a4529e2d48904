"""A file of comma-separated values: a line for each value, written at once."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2.run_dir.tracking import Tracker


class _Lines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", newline="", encoding="utf-8")
        self._lines = csv.writer(self._file)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._lines.writerows((step, name, value) for name, value in values.items())
        self._file.flush()

    def text(self, step: int, name: str, text: str) -> None:
        self._lines.writerow((step, name, text))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def open(folder: Path, name: str, config: Mapping[str, Any], options: None) -> Tracker:
    """Write lines.csv in `folder`; a run that resumes appends to it."""
    return _Lines(folder / "lines.csv")
