"""Split nested values into named tensors and JSON, and join them again exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from gpt2.machine.shards import is_sharded


def flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Move the tensors of `value` into `tensors`, with names that start with `name`.

    Returns the rest as JSON, in which values that JSON lacks carry their type: {"tensor": name},
    {"list": [...]}, and so on. Raises TypeError for other values.
    """
    if isinstance(value, Tensor):
        return _flatten_tensor(value, name, tensors)
    if type(value) in (list, tuple):
        parts = [flatten(part, f"{name}.{n}", tensors) for n, part in enumerate(value)]
        return {type(value).__name__: parts}
    if type(value) is dict:
        pairs = enumerate(value.items())
        return {"dict": [[k, flatten(v, f"{name}.{n}", tensors)] for n, (k, v) in pairs]}
    if isinstance(value, torch.Size):
        return {"size": list(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold {name}, a {type(value).__name__}")


def _flatten_tensor(tensor: Any, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if is_sharded(tensor):  # consecutive rows of it
        tensors[name] = tensor
        return {"tensor": name}
    if is_traceable_wrapper_subclass(tensor):
        # Quantised state: a class around codes and scales.
        inside, rest = tensor.__tensor_flatten__()
        parts = {
            key: _flatten_tensor(getattr(tensor, key), f"{name}.{key}", tensors) for key in inside
        }
        context = flatten(rest, f"{name}.rest", tensors)
        place = [list(tensor.shape), list(tensor.stride())]
        return {"wrapped": [_name(type(tensor)), parts, context, *place]}
    tensors[name] = tensor
    if tensor.is_contiguous():
        return {"tensor": name}
    # Rounding depends on the memory order (column-major in a QR factor), which a file does not
    # keep.
    order = sorted(range(tensor.ndim), key=lambda dim: -tensor.stride(dim))
    return {"tensor": name, "order": order}


def unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo flatten, taking tensors out of `tensors`.

    Raises ValueError.
    """
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor = tensors.pop(value["tensor"])
        order = value.get("order", list(range(tensor.ndim)))
        back = sorted(range(tensor.ndim), key=order.index)
        return tensor.permute(order).contiguous().permute(back)
    ((kind, inside),) = value.items()
    if kind == "size":
        return torch.Size(inside)
    if kind == "dtype":
        found = getattr(torch, inside)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"{inside!r} is not a number format of torch")
        return found
    if kind == "dict":
        return {key: unflatten(part, tensors) for key, part in inside}
    if kind == "wrapped":
        name, parts, rest, shape, stride = inside
        ready = {key: unflatten(part, tensors) for key, part in parts.items()}
        context = unflatten(rest, tensors)
        return _class(name).__tensor_unflatten__(ready, context, torch.Size(shape), tuple(stride))
    parts = [unflatten(part, tensors) for part in inside]
    return tuple(parts) if kind == "tuple" else parts


def as_saved(loaded: Any, saved: Any) -> Any:
    """Return `saved` where torch's loader changed its dtype, on the device it chose."""
    if isinstance(saved, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(saved, dict):
        return {key: as_saved(loaded[key], part) for key, part in saved.items()}
    if isinstance(saved, list | tuple):
        pairs = zip(loaded, saved, strict=True)
        return type(saved)(as_saved(one, part) for one, part in pairs)
    return saved


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _class(name: str) -> Any:
    """Return a class that a loaded library declared safe to load; files can name no other."""
    for kind in torch.serialization.get_safe_globals():
        if isinstance(kind, type) and _name(kind) == name:
            return kind
    raise ValueError(f"{name} is not a class that a loaded library declared safe to load")
