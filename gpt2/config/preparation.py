"""The command that prepares the data of a run, for messages."""

from __future__ import annotations

import shlex
from pathlib import Path

from gpt2.config import interpreter, plugins
from gpt2.config.schema import REPOSITORY
from gpt2.config.typed import PLUGIN_PACKAGES

_DEFAULT_DATA = REPOSITORY / "data"


def needs_input(dataset: str) -> bool:
    """Return whether `dataset` needs --input for its text; False for an unknown name."""
    package = PLUGIN_PACKAGES["DATASET"]
    known = dataset in plugins.names(package)
    return known and bool(plugins.constants(package, dataset).get("NEEDS_INPUT", False))


def prepare_command(folder: Path, tokenizer: str | None = None) -> str:
    """Return the command that makes the data folder DATA_DIR/DATASET."""
    folder = folder.absolute()
    command = [*interpreter.command("gpt2/prepare_data.py"), "--dataset", folder.name]
    if needs_input(folder.name):
        command += ["--input", "FILE_OR_FOLDER"]
    if tokenizer is not None:
        command += ["--tokenizer", tokenizer]
    if folder.parent != _DEFAULT_DATA:
        command += ["--data-dir", str(folder.parent)]
    return shlex.join(command)
