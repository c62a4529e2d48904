"""What the command line of a run that resumes may leave to the run."""

from __future__ import annotations

from pathlib import Path

from gpt2.config.options import Options

_RATE, _CHUNK = "LEARNING_RATE", "LOSS_CHUNK_MIB"


def take_from_run(options: Options, run: Path | None) -> None:
    """Give `options` what the run begun in `run` has, where another default took its place.

    In version 1 optimizers of libraries had a default learning rate, and every device chunks of 64
    MiB, so commands that began a run there say neither. Raises UserError when the run's `config`
    cannot be read.
    """
    left = [name for name in (_RATE, _CHUNK) if name not in options.given]
    if run is None or not left or not (path := run / "config").is_file():
        return
    began = Options()
    began.read(path)
    for name in left:
        value = began.value(name)
        if value and (name == _CHUNK or options.value(name) == ""):
            options.give(name, value, f"{path}: CONFIG_{name}")
