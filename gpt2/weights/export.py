"""Export a run's weights for other programs, and print their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from gpt2.config.actions import ExportActions
from gpt2.config.errors import UserError
from gpt2.config.text import shown_path
from gpt2.data.tokenizer import from_description
from gpt2.files.atomic import replaced_folder
from gpt2.run_dir.latest import meant
from gpt2.weights.export_folder import in_format, is_export, write_export, write_hugging_face
from gpt2.weights.trained import open_stored


def export(actions: ExportActions) -> None:
    """Export a run as `actions` says and print the sizes.

    Raises UserError.
    """
    out = _free_folder(actions)
    actions = replace(actions, run=meant(actions.run))
    stored = open_stored(actions.run, actions.best)
    tokenizer = from_description(stored.record["data"]["tokenizer"])
    tensors = in_format(stored.weights.model, actions.dtype)
    form, step = actions.format, stored.weights.step
    try:
        with replaced_folder(out) as folder:
            if form == "hf":
                written = write_hugging_face(folder, stored.config.model, tokenizer, tensors)
            else:
                written = write_export(folder, actions.run, form, actions.dtype, step, tensors)
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror}); nothing was changed; make room, "
            "or choose another folder"
        ) from error
    print(f"exported step {step}{_whose(actions.run, out)} to {shown_path(out)}")
    if not is_export(actions.run) and not (actions.run / "summary.json").exists():
        print("  the run is unfinished: --force exports it again when it has its results")
    for line in _account(tensors, written, actions.dtype):
        print(f"  {line}")


def _whose(run: Path, out: Path) -> str:
    """Name the run of an export, unless its folder lies in it and so names it."""
    return "" if out.is_relative_to(run.resolve()) else f" of {shown_path(run.resolve())}"


def _free_folder(actions: ExportActions) -> Path:
    """Return the folder to write, absolute.

    Raises UserError when it may not be replaced.
    """
    name = actions.format + "-best" * actions.best + "-bf16" * (actions.dtype == "bf16")
    out = (actions.out or actions.run / "export" / name).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        ours = actions.out is None or is_export(out)
        if not (actions.force and out.is_dir() and ours):
            raise UserError(
                f"--out {out} already exists; --force replaces an export, or choose another folder"
            )
    return out


def _account(tensors: Mapping[str, Tensor], written: int, dtype: str) -> Iterator[str]:
    """Yield lines about the zeros in `tensors`, and their part in the `written` bytes."""
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
        f"file of weights: {written:,} bytes, {written / (width * entries):.1%} of the size of all "
        f"weights unpacked in {dtype} ({width * entries:,} bytes)"
    )
    if dtype == "bf16":
        yield "bf16 keeps 8 significant bits of fp32's 24: the losses differ a little"
