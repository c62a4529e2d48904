"""TensorBoard's event files, in the run directory; a run that goes on adds another file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from gpt2.run_dir.tracking import Tracker


class _Events:
    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def open(folder: Path, name: str, config: Mapping[str, Any]) -> Tracker:
    """Write event files into `folder`, and the options as a text."""
    writer = SummaryWriter(str(folder))
    writer.add_text("options", "\n".join(f"    {key} = {config[key]}" for key in sorted(config)))
    return _Events(writer)
