"""The folders that export.py writes: for transformers, or our own, which can be read back.

Ours hold

    config, run.json    the run's own
    export.json         form (dense or sparse), number format, step
    WEIGHTS[form]       the weights under our names
    MANIFEST.json       written last: size and SHA-256 of the others
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from gpt2.checkpoint.store import Checkpoint
from gpt2.checkpoint.tensor_file import LazyTensors, file_size, read_tensors, write_tensors
from gpt2.config.typed import ModelConfig
from gpt2.data.tokenizer import Tokenizer
from gpt2.files.atomic import write_file
from gpt2.files.json import read_object
from gpt2.files.manifest import MANIFEST, DamagedError, problem, write_manifest
from gpt2.optim.precision import DTYPES
from gpt2.weights.hugging_face import hugging_face_config, missing_biases, transposed
from gpt2.weights.sparse import SparseFile, pack, packed_form
from gpt2.weights.tokenizer_files import tokenizer_files

ABOUT = "export.json"
WEIGHTS = {"dense": "model.safetensors", "sparse": "model.sparse.safetensors"}
_FROM_RUN = ("config", "run.json")


def in_format(tensors: Mapping[str, Tensor], dtype: str) -> Mapping[str, Tensor]:
    """Return `tensors` in the number format `dtype`, each converted when it is asked for."""
    return LazyTensors({name: partial(_converted, tensors, name, dtype) for name in tensors})


def write_hugging_face(
    folder: Path, config: ModelConfig, tokenizer: Tokenizer, tensors: Mapping[str, Tensor]
) -> int:
    """Fill `folder` with the files for GPT2LMHeadModel.from_pretrained; return the weights' bytes.

    Raises OSError, and UserError (DATA) when the shipped vocabulary is damaged.
    """
    biases = missing_biases(tensors)
    makers: dict[str, Callable[[], Tensor]] = {
        name: partial(_transposed, tensors, name) for name in tensors
    }
    makers.update({name: partial(biases.__getitem__, name) for name in biases})
    size, _ = write_tensors(folder / WEIGHTS["dense"], LazyTensors(makers), {"format": "pt"})
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    entries = hugging_face_config(config, tokenizer.vocab_size, tokenizer.end_of_text, dtype)
    files = tokenizer_files(tokenizer, config.block_size)
    files["config.json"] = (json.dumps(entries, indent=2) + "\n").encode()
    for name, data in files.items():
        write_file(folder / name, data)
    return size


def write_export(
    folder: Path, run: Path, form: str, dtype: str, step: int, tensors: Mapping[str, Tensor]
) -> int:
    """Fill `folder` from the run in `run`; return the bytes of the weights.

    Raises OSError.
    """
    path = folder / WEIGHTS[form]
    if form == "sparse":
        makers, texts = pack(tensors)
        weights = write_tensors(path, LazyTensors(makers), texts)
    else:
        weights = write_tensors(path, tensors, {"format": "pt"})
    files = {path.name: weights}
    for name in _FROM_RUN:
        files[name] = write_file(folder / name, (run / name).read_bytes())
    about = {"form": form, "dtype": dtype, "step": step}
    files[ABOUT] = write_file(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
    write_manifest(folder, files)
    return weights[0]


def weight_bytes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes in bytes of the weight files of write_export: dense and sparse."""
    # The order of tensors in a checkpoint.
    ordered = LazyTensors({name: partial(tensors.__getitem__, name) for name in sorted(tensors)})
    form, texts = packed_form(ordered)
    return {"dense": file_size(ordered, {"format": "pt"}), "sparse": file_size(form, texts)}


def is_export(folder: Path) -> bool:
    """Return whether write_export made `folder`, even if it is damaged now."""
    marks = all((folder / name).is_file() for name in (MANIFEST, "config"))
    return marks or (folder / ABOUT).is_file()


def load_export(folder: Path) -> Checkpoint:
    """Load a folder made by write_export, as a checkpoint with weights and a step only.

    Sparse weights are restored one by one, when they are asked for. Raises DamagedError, or
    UserError (CHECKPOINT) for a sparse file, naming the damaged file.
    """
    if wrong := problem(folder, (*_FROM_RUN, ABOUT)):
        raise DamagedError(wrong)
    try:
        about = read_object(folder / ABOUT, {"form": str, "step": int})
        path = folder / WEIGHTS[about["form"]]
        sparse = about["form"] == "sparse"
        weights = SparseFile(path) if sparse else read_tensors(path)
        return Checkpoint(step=about["step"], model=weights, optim={}, state={})
    except (OSError, ValueError, KeyError) as error:
        raise DamagedError(f"{folder} cannot be read: {error}") from error


def _converted(tensors: Mapping[str, Tensor], name: str, dtype: str) -> Tensor:
    return tensors[name].to(DTYPES[dtype])


def _transposed(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return transposed(name, tensors[name])
