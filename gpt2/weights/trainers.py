"""Checkpoints of other trainers, such as nanoGPT: unpack, unwrap, and detect the orientation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from gpt2.weights.pretrained import SHAPE

#: Keys of the weights in trainers' checkpoints, beside the optimizer and counters.
_WEIGHTS = ("model", "state_dict", "model_state_dict", "module")
#: Prefixes of names by torch.compile, DDP, Lightning and trainers' modules.
_WRAPPERS = ("_orig_mod.", "module.", "model.", "_forward_module.")
#: Inserts in names by FSDP and torch's activation checkpointing.
_BETWEEN = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


def of_trainer(found: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, int]]:
    """Return the state_dict in a trainer's checkpoint, and the SHAPE that nanoGPT stores with it.

    Anything else is returned unchanged.
    """
    args = found.get("model_args")
    shape = {}
    if isinstance(args, Mapping) and all(type(args.get(name)) is int for name in SHAPE):
        shape = {name: args[name] for name in SHAPE}
    for key in _WEIGHTS:
        if isinstance(inside := found.get(key), Mapping):
            return inside, shape
    return found, shape


def unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors by their names without the prefixes of wrappers."""
    names = {_bare(name): name for name in tensors}
    same = all(bare == name for bare, name in names.items())
    # Two tensors of one name would hide each other: then nothing is renamed, so that errors name
    # all.
    return tensors if same or len(names) < len(tensors) else _Renamed(tensors, names)


def is_conv1d(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether linear weights are (in, out), as in transformers, not (out, in), as in torch.

    It looks at the joint matrix of queries, keys and values, the only one that is never square.
    True if missing.
    """
    for name in tensors:
        if name.endswith("attn.c_attn.weight") and (matrix := tensors[name]).dim() == 2:
            return matrix.size(0) != 3 * matrix.size(1)
    return True


def _bare(name: str) -> str:
    for wrapper in _BETWEEN:
        name = name.replace(wrapper, "")
    while wrapper := next((one for one in _WRAPPERS if name.startswith(one)), ""):
        name = name.removeprefix(wrapper)
    return name


class _Renamed(Mapping[str, Tensor]):
    """Tensors under other names, each read when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
