"""Options that a resume takes from the run, because their defaults have changed."""

from __future__ import annotations

from pathlib import Path

from gpt2.config.options import Options

_RATE, _DECAY, _CHUNK = "LEARNING_RATE", "WEIGHT_DECAY", "LOSS_CHUNK_MIB"
_METHOD, _PATTERN = "PRUNING_METHOD", "SPARSITY_PATTERN"
#: Defaults of optimizers in version 1 that have changed.
_EARLIER = {
    "adafactor": {_RATE: "0.04", _DECAY: "0.1"},
    "lion": {_DECAY: "0.1"},
}


def take_from_run(options: Options, run: Path | None) -> None:
    """Set options that are not given to the values of the run in `run`, if their defaults changed.

    In version 1, library optimizers had a default learning rate, and every device chunks of 64 MiB.
    Most pruning methods had the pattern `global`, and Adafactor and Lion another rate or weight
    decay. So commands that began a run there may not name them. Raises UserError when the run's
    `config` cannot be read.
    """
    earlier = _EARLIER.get(options.value("OPTIMIZER") or "", {})
    left = [name for name in (_RATE, _DECAY, _CHUNK, _PATTERN) if not _given(options, name)]
    if run is None or not left or not (path := run / "config").is_file():
        return
    began = Options()
    began.read(path)
    if began.value(_METHOD) != options.value(_METHOD):  # the resume reports only this difference
        left = [name for name in left if name != _PATTERN]
    for name in left:
        value = began.value(name)
        replaced = name in (_CHUNK, _PATTERN) or options.value(name) == ""
        if value and (replaced or value == earlier.get(name)):
            options.give(name, value, f"{path}: CONFIG_{name}")


def _given(options: Options, name: str) -> bool:
    members = options.members(name).values() if name in options.choices else [name]
    return any(member in options.given for member in members)
