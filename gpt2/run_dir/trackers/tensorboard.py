"""TensorBoard's event files, in the run directory; a resumed run adds another file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from gpt2.run_dir.folder import read_metrics
from gpt2.run_dir.tracking import Tracker, as_code


class _Events:
    """Event files, of which each replaces what the earlier ones have of its steps.

    A run that was killed resumes from its last checkpoint and repeats some steps, as it does after
    a rollback.
    """

    def __init__(self, folder: Path, options: str) -> None:
        self._folder, self._options = folder, options
        self._writer: SummaryWriter | None = None
        self._step = 0

    def _at(self, step: int, repeats: int) -> SummaryWriter:
        """Return the writer for `step`; `repeats` is the first step that is logged again."""
        if self._writer is not None and step >= self._step:
            self._step = step
            return self._writer
        if self._writer is not None:
            self._writer.close()
        self._writer, self._step = SummaryWriter(str(self._folder), purge_step=repeats), step
        self._writer.add_text("options", self._options)
        return self._writer

    def log(self, step: int, values: Mapping[str, float]) -> None:
        writer = self._at(step, step if self._repeats(step, values) else step + 1)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # or it keeps two minutes to itself, and a kill would lose them

    def _repeats(self, step: int, values: Mapping[str, float]) -> bool:
        """Return whether all that earlier files have of `step` is logged again.

        An evaluation is repeated alone where the run keeps the values of the training step.
        """
        groups = {name.partition("/")[0] for name in values}
        if "val" not in groups or (self._writer is not None and step >= self._step):
            return "train" in groups
        lines = read_metrics(self._folder.parent)
        return not any(line["step"] == step and "loss" in line for line in lines)

    def text(self, step: int, name: str, text: str) -> None:
        self._at(step, step + 1).add_text(name, as_code(text), step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def open(folder: Path, name: str, config: Mapping[str, Any], options: None) -> Tracker:
    """Write event files into `folder`, and the options as a text."""
    lines = "\n".join(f"{key} = {config[key]}" for key in sorted(config))
    return _Events(folder, as_code(lines))
