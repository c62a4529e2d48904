"""Turn a corpus into tokens: .bin files and meta.json in DATA_DIR/CORPUS."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("prepare_data.py")

from collections.abc import Sequence

from gpt2.config.actions import PrepareActions
from gpt2.config.cli import parse
from gpt2.config.entry import run_entry
from gpt2.data.prepare import command

#: The options of a run that apply here.
OPTIONS = ("DATASET", "TOKENIZER", "DATA_DIR")


def main(argv: Sequence[str]) -> int:
    """Prepare the corpus that `argv` names; return the exit code.

    Raises UserError.
    """
    options, actions = parse(
        "prepare_data.py", "Turn a corpus into tokens.", argv, PrepareActions, OPTIONS
    )
    command.run(options, actions)
    return 0


if __name__ == "__main__":
    run_entry("prepare_data.py", lambda: main(sys.argv[1:]))
