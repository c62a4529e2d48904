"""The state of a run between two steps: to a checkpoint, and back to the bit."""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2.training.distributed import part_like, whole

#: Entries of a group that say what it is, or how this machine computes it: made anew at a resume.
_NOT_STATE = ("params", "names", "role", "fused", "foreach", "capturable", "differentiable")


def optimizer_tensors(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimizer's state as whole tensors named PARAMETER.KEY, and the rest as JSON.

    Tensors in lists and dictionaries are named PARAMETER.KEY.PLACE. Raises TypeError for what is
    neither a tensor nor JSON.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"state": {}, "groups": [], "shared": {}, "own": {}}
    for number, group in enumerate(optimizer.param_groups):
        rest: dict[str, Any] = {}
        for key, value in group.items():
            if isinstance(value, Tensor):
                tensors[f"group.{number}.{key}"] = value
            elif key not in _NOT_STATE and not isinstance(value, torch.dtype):
                rest[key] = _take_apart(value, f"group.{number}.{key}", tensors)
        plain["groups"].append(rest)
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in sorted(optimizer.state.get(parameter, {}).items()):
                place = f"{name}.{key}"
                found = _take_apart(value, place, tensors)
                if found != {"tensor": place}:
                    plain["state"][place] = found
    # What an optimizer keeps once, and not for each parameter: among the state, or beside it.
    for key, value in optimizer.state.items():
        if isinstance(key, str):
            plain["shared"][key] = _take_apart(value, f"shared.{key}", tensors)
    for key, value in optimizer.state_dict().items():
        if key not in ("state", "param_groups"):
            plain["own"][key] = _take_apart(value, f"own.{key}", tensors)
    return tensors, plain


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]
) -> None:
    """Put back what optimizer_tensors gave. Raises ValueError for state of no known parameter."""
    # In a file a tensor may begin at any byte, and products are rounded by where it begins.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    parts = {name: _put_together(value, tensors) for name, value in plain["state"].items()}
    groups = [
        {key: _put_together(value, tensors) for key, value in group.items()}
        for group in plain["groups"]
    ]
    shared = {key: _put_together(value, tensors) for key, value in plain.get("shared", {}).items()}
    own = {key: _put_together(value, tensors) for key, value in plain.get("own", {}).items()}
    values = {**tensors, **parts}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = {**optimizer.state_dict(), **own, "state": dict(shared)}
    index = 0
    for number, group in enumerate(saved["param_groups"]):
        for key, value in groups[number].items():
            # Checkpoints of before lists were told from tuples have lists alone.
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
        prefix = f"group.{number}."
        for name in [name for name in values if name.startswith(prefix)]:
            group[name.removeprefix(prefix)] = values.pop(name)
        for name in group["names"]:
            keys = [key for key in values if key.startswith(name + ".")]
            if keys:
                found = {key[len(name) + 1 :]: values.pop(key) for key in keys}
                parameter = parameters[index]
                saved["state"][index] = {
                    key: part_like(value, parameter) if isinstance(value, Tensor) else value
                    for key, value in found.items()
                }
            index += 1
    if values:
        raise ValueError(f"optimizer state of unknown parameters: {', '.join(values)}")
    # torch's own loader knows which state belongs on which device, but casts all of it to the
    # parameter's format; what was stored in another format gets it back.
    optimizer.load_state_dict(saved)
    for position, state in saved["state"].items():
        if position not in shared:
            loaded = optimizer.state[parameters[position]]
            for key, value in state.items():
                loaded[key] = _as_saved(loaded[key], value)


def _take_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Put the tensors of `value` into `tensors`, from `name` on; return the rest as JSON.

    There, what is no plain value says its kind: {"tensor": name}, {"list": [...]}, and so on.
    """
    if isinstance(value, Tensor):
        tensors[name] = full = whole(value)
        if full.is_contiguous():
            return {"tensor": name}
        # Products are rounded by the order in memory (by columns in a QR factor), which a file
        # does not keep.
        order = sorted(range(full.ndim), key=lambda dim: -full.stride(dim))
        return {"tensor": name, "order": order}
    if type(value) in (list, tuple):
        parts = [_take_apart(part, f"{name}.{n}", tensors) for n, part in enumerate(value)]
        return {type(value).__name__: parts}
    if type(value) is dict:
        pairs = enumerate(value.items())
        return {"dict": [[k, _take_apart(v, f"{name}.{n}", tensors)] for n, (k, v) in pairs]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold {name}, a {type(value).__name__}")


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo _take_apart, taking what it needs out of `tensors`."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor = tensors.pop(value["tensor"])
        order = value.get("order", list(range(tensor.ndim)))
        back = sorted(range(tensor.ndim), key=order.index)
        return tensor.permute(order).contiguous().permute(back)
    ((kind, inside),) = value.items()
    if kind == "dict":
        return {key: _put_together(part, tensors) for key, part in inside}
    parts = [_put_together(part, tensors) for part in inside]
    return tuple(parts) if kind == "tuple" else parts


def _as_saved(loaded: Any, saved: Any) -> Any:
    """Return `saved` where torch's loader changed its format, on the device it chose."""
    if isinstance(saved, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(saved, dict):
        return {key: _as_saved(loaded[key], part) for key, part in saved.items()}
    if isinstance(saved, list | tuple):
        pairs = zip(loaded, saved, strict=True)
        return type(saved)(_as_saved(one, part) for one, part in pairs)
    return saved


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator, as JSON."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": _encode(torch.get_rng_state()),
        "cuda": [_encode(state) for state in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_available()
        else [],
        "numpy": [str(name), [int(key) for key in keys], position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def load_random_state(state: dict[str, Any]) -> None:
    """Put every global random generator back. CUDA's are left alone where the cards differ."""
    torch.set_rng_state(_decode(state["torch"]))
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_decode(text) for text in state["cuda"]])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _encode(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _decode(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())
