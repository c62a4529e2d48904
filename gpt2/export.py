"""Export a trained model: run directory -> Hugging Face, sparse or dense folder."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("export.py")

from collections.abc import Sequence

from gpt2.config.actions import ExportActions
from gpt2.config.cli import parse
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError

#: Options of a run that apply here: none.
OPTIONS: tuple[str, ...] = ()
FORMATS, DTYPES = ("hf", "sparse", "dense"), ("fp32", "bf16")


def main(argv: Sequence[str]) -> int:
    """Export the model, and print how to load it; return the exit code.

    Raises UserError.
    """
    _, actions = parse(
        "export.py",
        "Export a trained model for Hugging Face, or as a sparse or dense file.",
        argv,
        ExportActions,
        OPTIONS,
    )
    _refuse_unknown("--format", actions.format, FORMATS)
    _refuse_unknown("--dtype", actions.dtype, DTYPES)
    from gpt2.weights.export import export

    export(actions)
    return 0


def _refuse_unknown(flag: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"{flag} {value!r}: there are {', '.join(known)}")


if __name__ == "__main__":
    run_entry("export.py", lambda: main(sys.argv[1:]))
