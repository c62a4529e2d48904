"""The state of a run between two steps, to a checkpoint and back, exactly."""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2.checkpoint.nested_tensors import as_saved, flatten, unflatten
from gpt2.machine.shards import shard_like

#: Entries of a group that are not state: they are set anew at a resume.
_NOT_STATE = ("params", "names", "role", "fused", "foreach", "capturable", "differentiable")

#: Most numbers of a tensor that may stay on the host while its parameter is elsewhere: step counts.
_SMALL = 1024


def optimizer_tensors(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimizer's state as tensors named PARAMETER.KEY, and the rest as JSON.

    Tensors in lists and dictionaries are named PARAMETER.KEY.INDEX. Sharded tensors stay sharded.
    Raises TypeError for values that are neither tensors nor JSON.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"state": {}, "groups": [], "shared": {}, "own": {}}
    for number, group in enumerate(optimizer.param_groups):
        rest: dict[str, Any] = {}
        for key, value in group.items():
            place = f"group.{number}.{key}"
            if isinstance(value, Tensor):
                tensors[place] = value
            elif key not in _NOT_STATE:
                rest[key] = flatten(value, place, tensors)
        plain["groups"].append(rest)
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in sorted(optimizer.state.get(parameter, {}).items()):
                place = f"{name}.{key}"
                found = flatten(value, place, tensors)
                if found != {"tensor": place}:
                    plain["state"][place] = found
    # State that an optimizer keeps once, not per parameter: inside `state` or as attributes.
    of_all: dict[Any, Any] = optimizer.state
    for word, value in of_all.items():
        if isinstance(word, str):
            plain["shared"][word] = flatten(value, f"shared.{word}", tensors)
    for key, value in optimizer.state_dict().items():
        if key not in ("state", "param_groups"):
            plain["own"][key] = flatten(value, f"own.{key}", tensors)
    return tensors, plain


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimizer's state, of all ranks together."""
    tensors, _ = optimizer_tensors(optimizer)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]
) -> None:
    """Restore the result of optimizer_tensors().

    Raises ValueError for state of an unknown parameter.
    """
    # In a file a tensor may start at any byte, and rounding depends on alignment. Tensors for
    # another device are copied there one by one, without a copy on the host.
    stays = {p.device.type for group in optimizer.param_groups for p in group["params"]} == {"cpu"}
    tensors = {
        name: tensor.clone() if stays or tensor.numel() <= _SMALL else tensor
        for name, tensor in tensors.items()
    }
    parts = {name: unflatten(value, tensors) for name, value in plain["state"].items()}
    groups = [
        {key: unflatten(value, tensors) for key, value in group.items()}
        for group in plain["groups"]
    ]
    shared = {key: unflatten(value, tensors) for key, value in plain.get("shared", {}).items()}
    own = {key: unflatten(value, tensors) for key, value in plain.get("own", {}).items()}
    values = {**tensors, **parts}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = {**optimizer.state_dict(), **own, "state": dict(shared)}
    index = 0
    for number, group in enumerate(saved["param_groups"]):
        for key, value in groups[number].items():
            # Old checkpoints hold tuples as lists.
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
        start = f"group.{number}."
        for place in [place for place in values if place.startswith(start)]:
            group[place.removeprefix(start)] = values.pop(place)
        for name in group["names"]:
            keys = [key for key in values if key.startswith(name + ".")]
            if keys:
                found = {key[len(name) + 1 :]: values.pop(key) for key in keys}
                parameter = parameters[index]
                saved["state"][index] = {
                    key: shard_like(value, parameter) if isinstance(value, Tensor) else value
                    for key, value in found.items()
                }
            index += 1
    if values:
        raise ValueError(f"optimizer state of unknown parameters: {', '.join(values)}")
    # torch's own loader knows which state belongs on which device, but casts all of it to the
    # parameter's dtype; as_saved restores other dtypes.
    optimizer.load_state_dict(saved)
    for position, state in saved["state"].items():
        if position not in shared:
            loaded = optimizer.state[parameters[position]]
            for key, value in state.items():
                loaded[key] = as_saved(loaded[key], value)


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator as JSON; of CUDA the current device's."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": _encode(torch.get_rng_state()),
        # A CPU run on a machine with a GPU must not start CUDA, which takes time and memory.
        "cuda": [_encode(torch.cuda.get_rng_state())] if torch.cuda.is_initialized() else [],
        "numpy": [str(name), [int(key) for key in keys], position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def load_random_state(state: dict[str, Any]) -> None:
    """Restore every global random generator, on CUDA the current device's.

    Version 1 saved those of all visible devices: the one with the current device's index is used.
    """
    torch.set_rng_state(_decode(state["torch"]))
    if torch.cuda.is_initialized() and (saved := state["cuda"]):
        place = torch.cuda.current_device() if len(saved) > 1 else 0
        if place < len(saved):
            torch.cuda.set_rng_state(_decode(saved[place]))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _encode(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _decode(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())
