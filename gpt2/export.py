"""Write a trained model for elsewhere: run directory -> Hugging Face, sparse or dense folder."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not __package__:
    # See train.py: a script's own folder must not be on the path, the repository must.
    _here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == _here:
        sys.path.pop(0)
    sys.path.insert(0, os.path.dirname(_here))

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2.config.actions import ExportActions
from gpt2.config.cli import parse
from gpt2.config.errors import UserError, run_entry

if TYPE_CHECKING:
    from torch import Tensor

#: The options of a run that matter here: none.
OPTIONS: tuple[str, ...] = ()
FORMATS, DTYPES = ("hf", "sparse", "dense"), ("fp32", "bf16")


def main(argv: Sequence[str]) -> int:
    """Export as `argv` says, and say what it takes; return the exit code. Raises UserError."""
    _, actions = parse(
        "export.py", "Write a trained model for elsewhere.", argv, ExportActions, OPTIONS
    )
    _refuse_unknown("--format", actions.format, FORMATS)
    _refuse_unknown("--dtype", actions.dtype, DTYPES)
    out = _free_folder(actions)
    from gpt2.data.tokenizer import from_description
    from gpt2.files.atomic import new_folder
    from gpt2.weights.export_folder import in_format, write_export, write_hugging_face
    from gpt2.weights.trained import open_stored

    stored = open_stored(actions.run, actions.best)
    tokenizer = from_description(stored.record["data"]["tokenizer"])
    tensors = in_format(stored.weights.model, actions.dtype)
    form, step = actions.format, stored.weights.step
    try:
        with new_folder(out) as folder:
            if form == "hf":
                written = write_hugging_face(folder, stored.config.model, tokenizer, tensors)
            else:
                written = write_export(folder, actions.run, form, actions.dtype, step, tensors)
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror}) and nothing of it is left; make "
            "room, or choose another folder"
        ) from error
    print(f"step {step} of {actions.run} is in {out}")
    for line in _account(tensors, written, actions.dtype):
        print(f"  {line}")
    if form == "hf" and tokenizer.end_of_text is None:
        print("  no tokenizer files: its tokens are characters, which transformers has none for")
    return 0


def _refuse_unknown(flag: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"{flag} {value!r}: there are {', '.join(known)}")


def _free_folder(actions: ExportActions) -> Path:
    """Return the folder to write, absolute. Raises UserError when there is something in it."""
    name = actions.format + "-best" * actions.best + "-bf16" * (actions.dtype == "bf16")
    out = (actions.out or actions.run / "export" / name).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is there already; remove it, or choose another folder")
    return out


def _account(tensors: Mapping[str, Tensor], written: int, dtype: str) -> Iterator[str]:
    """Yield lines on the zeros in `tensors`, and what they took in the `written` bytes."""
    entries = zeros = matrix_entries = matrix_zeros = negative = 0
    for name, tensor in tensors.items():
        none = tensor == 0.0
        count = int(none.sum())
        negative += int((none & tensor.signbit()).sum())
        entries, zeros = entries + tensor.numel(), zeros + count
        if tensor.dim() == 2 and ".h." in name:
            matrix_entries, matrix_zeros = matrix_entries + tensor.numel(), matrix_zeros + count
    yield (
        f"zeros: {matrix_zeros / matrix_entries:.2%} of the attention and MLP matrices, "
        f"{zeros / entries:.2%} of all {entries:,} weights"
    )
    if negative:
        yield f"{negative:,} of the zeros are negative; a sparse file stores those as values"
    width = {"fp32": 4, "bf16": 2}[dtype]
    yield (
        f"weights: {written:,} bytes, {written / (width * entries):.3f} of dense {dtype} "
        f"({width * entries:,} bytes)"
    )
    if dtype == "bf16":
        yield "bf16 keeps 8 significant bits of fp32's 24: the losses differ a little"


if __name__ == "__main__":
    run_entry("export.py", lambda: main(sys.argv[1:]))
