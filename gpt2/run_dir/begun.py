"""What the command line of a run that resumes may leave to the run."""

from __future__ import annotations

from pathlib import Path

from gpt2.config.options import Options

_RATE = "LEARNING_RATE"


def take_learning_rate(options: Options, run: Path | None) -> None:
    """Give `options` the learning rate of the run begun in `run`, where they have none.

    Optimizers of libraries had a default in version 1, so commands that began a run there may lack
    the rate. Raises UserError when the run's `config` cannot be read.
    """
    if run is None or _RATE in options.given or options.value(_RATE) != "":
        return
    path = run / "config"
    if path.is_file():
        began = Options()
        began.read(path)
        if rate := began.value(_RATE):
            options.give(_RATE, rate, f"{path}: CONFIG_{_RATE}")
