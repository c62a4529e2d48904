"""TensorBoard's event files, in the run directory; a resumed run adds another file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from gpt2.run_dir.tracking import Tracker, as_code


class _Events:
    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        self._writer.add_text(name, as_code(text), step)

    def close(self) -> None:
        self._writer.close()


def open(folder: Path, name: str, config: Mapping[str, Any], options: None) -> Tracker:
    """Write event files into `folder`, and the options as a text."""
    writer = SummaryWriter(str(folder))
    lines = "\n".join(f"{key} = {config[key]}" for key in sorted(config))
    writer.add_text("options", as_code(lines))
    return _Events(writer)
