"""Weights from other programs: Hugging Face folders, .safetensors and .bin files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]

from gpt2.config.errors import Exit, UserError
from gpt2.config.text import first_line
from gpt2.files.json import read_object
from gpt2.files.wrong_downloads import what_it_is
from gpt2.weights.pretrained import SHAPE, Pretrained
from gpt2.weights.sparse import SparseFile, is_sparse
from gpt2.weights.trainers import is_conv1d, of_trainer, unwrapped

#: Files of weights in a folder, in order of preference.
_WHOLE, _INDEX, _PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
#: Names of published models that other programs download.
_PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
#: Defaults of transformers' GPT2Config.
_SHAPE_DEFAULTS = {"n_layer": 12, "n_head": 12, "n_embd": 768}
#: Entries that change the computation, and the values that our model supports; the first is the
#: default.
_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def open_foreign(path: Path) -> Pretrained:
    """Open a Hugging Face GPT-2 folder, or a file of weights with or without its config.json.

    Raises UserError (CONFIG) when it is something else, (CHECKPOINT) when it is damaged.
    """
    if path.is_dir():
        if not (path / "config.json").is_file():
            no_model = "this folder is not a model: it has neither config.json nor a run"
            raise _error(path, no_model + _not_downloaded(path))
        found = unwrapped(_in_folder(path))
        return Pretrained(path, found, is_conv1d(found), shape=_read_config(path))
    if not path.is_file():
        raise _error(path, "no such file or folder" + _not_downloaded(path))
    if path.suffix == ".safetensors" and is_sparse(path):
        return Pretrained(path, SparseFile(path), conv1d=False, shape={})
    shape: Mapping[str, int] = {}
    if path.suffix == ".safetensors":
        tensors: Mapping[str, Tensor] = _Safetensors(path, [path])
    elif path.suffix in (".bin", ".pt", ".pth"):
        tensors, shape = _unpickled(path)
    else:
        raise _error(path, "this is neither a folder nor .safetensors, .bin, .pt or .pth")
    if (path.parent / "config.json").is_file():
        shape = _read_config(path.parent)
    tensors = unwrapped(tensors)
    return Pretrained(path, tensors, is_conv1d(tensors), shape=shape)


class _Safetensors(Mapping[str, Tensor]):
    """The tensors of some files, each read when it is asked for."""

    def __init__(self, where: Path, paths: list[Path]) -> None:
        self._files: dict[str, Any] = {}
        for path in paths:
            try:
                file = safe_open(path, framework="pt")
            except FileNotFoundError:
                raise _damaged(where, f"{path.name} is missing") from None
            except (SafetensorError, OSError) as error:
                problem = f"{path.name} ({path.stat().st_size:,} bytes) is damaged: {error}"
                raise _damaged(where, what_it_is(path) or problem) from error
            self._files.update(dict.fromkeys(file.keys(), file))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _in_folder(folder: Path) -> Mapping[str, Tensor]:
    if (folder / _WHOLE).is_file():
        return _Safetensors(folder, [folder / _WHOLE])
    if (folder / _INDEX).is_file():
        return _sharded(folder)
    if (folder / _PICKLED).is_file():
        return _unpickled(folder / _PICKLED)[0]
    raise _error(folder, f"it has none of {_WHOLE}, {_INDEX} and {_PICKLED}")


def _sharded(folder: Path) -> Mapping[str, Tensor]:
    try:
        index = read_object(folder / _INDEX, {"weight_map": dict})
        places = {str(name): str(file) for name, file in index["weight_map"].items()}
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{_INDEX} cannot be read ({error})") from error
    shards = sorted(set(places.values()))
    if odd := [name for name in shards if not re.fullmatch(r"[\w-][\w.-]*", name)]:
        raise _damaged(folder, f"{_INDEX} names {odd[0]!r}, which is not a file in this folder")
    if absent := [name for name in shards if not (folder / name).is_file()]:
        raise _damaged(folder, f"shards are missing: {', '.join(absent)}")
    found = _Safetensors(folder, [folder / name for name in shards])
    if lacking := sorted(places.keys() - found.keys()):
        raise _damaged(folder, f"{places[lacking[0]]} lacks {lacking[0]}, which {_INDEX} names")
    return found


def _unpickled(path: Path) -> tuple[Mapping[str, Tensor], dict[str, int]]:
    """Return the state_dict in a file of torch.save, memory-mapped, without running its code.

    Also returns the SHAPE, where a trainer's file has it.
    """
    way_out = "take model.safetensors instead"
    try:
        # torch.load does not check the checksums.
        with zipfile.ZipFile(path) as archive:
            packed = [one for one in archive.infolist() if one.compress_type]
            bad = None if packed else archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        problem = f"it is damaged, or of a format before torch 1.6 ({error}); {way_out}"
        raise _damaged(path, what_it_is(path) or problem) from error
    if packed:
        # torch.save never compresses, and a compressed entry may have any size when unpacked.
        problem = f"{packed[0].filename} in it is compressed, which torch.save does not; {way_out}"
        raise _damaged(path, problem)
    if bad:
        raise _damaged(path, f"it is damaged: the checksum of {bad} is wrong")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        problem = f"it holds more than tensors, and would run as a program; {way_out}"
        raise _damaged(path, problem) from error
    except (RuntimeError, ValueError, OSError, EOFError) as error:
        raise _damaged(path, f"it cannot be read ({first_line(error)}); {way_out}") from error
    if not isinstance(found, dict):
        raise _error(path, f"it holds a {type(found).__name__}, not tensors by name")
    found, shape = of_trainer(found)
    if odd := [str(name) for name, value in found.items() if not isinstance(value, Tensor)]:
        raise _error(path, f"{odd[0]!r} in it is not a tensor; save the model's state_dict alone")
    return found, shape


def _not_downloaded(path: Path) -> str:
    """Return a hint if `path` is the name of a published model; else empty."""
    if path.name not in _PUBLISHED:
        return ""
    return (
        "; nothing is downloaded by its name: docs/fine-tuning.md says which two files to fetch,"
        " then give their folder"
    )


def _read_config(folder: Path) -> dict[str, int]:
    """Return the SHAPE in config.json.

    Raises UserError when it is not a GPT-2 like ours.
    """
    path = folder / "config.json"
    try:
        entries = read_object(path, {f"{name}?": int for name in SHAPE})
        kind = entries.get("model_type")
    except (OSError, ValueError) as error:
        raise _damaged(path, what_it_is(path) or f"it cannot be read ({error})") from error
    if kind != "gpt2":
        raise _error(path, f"it describes a model of type {kind!r}; only 'gpt2' can be taken over")
    shape = {name: entries.get(name, _SHAPE_DEFAULTS[name]) for name in SHAPE}
    allowed = {**_FIXED, "n_inner": (None, 4 * shape["n_embd"])}
    problems = [
        f"{name} is {entries[name]!r}, this program computes {allowed[name][-1]!r} only"
        for name in allowed
        if name in entries and entries[name] not in allowed[name]
    ]
    if problems:
        raise _error(path, *problems)
    return shape


def _error(path: Path, *problems: str) -> UserError:
    return UserError(*(f"--init-from {path}: {text}" for text in problems))


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(f"--init-from {path}: {problem}", code=Exit.CHECKPOINT)
