"""Turn texts into arguments of an optimizer's constructor, typed by its signature."""

from __future__ import annotations

import ast
import inspect
import itertools
import types
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gpt2.config.errors import UserError
from gpt2.config.names import nearest

#: Arguments that cannot be given here, and where they are set.
ELSEWHERE = {
    "lr": "it is --learning-rate",
    "weight_decay": "it is --weight-decay",
    "params": "the model's parameters are given already",
}


def typed_arguments(
    optimizer: str, kind: Callable[..., Any], given: dict[str, str], reserved: Iterable[str] = ()
) -> dict[str, Any]:
    """Return `given` with its values converted to the types in the signature of `kind`.

    Raises UserError naming every argument that is unknown (`kind` itself might ignore it), has its
    own flag, is `reserved`, or has another type.
    """
    known = parameters(kind)
    ready, problems = {}, []
    for key, text in given.items():
        if key in ELSEWHERE:
            problems.append(f"--opt-arg {key}: {ELSEWHERE[key]}")
        elif key not in known or key in reserved:
            free = [name for name in known if name not in (*ELSEWHERE, *reserved)]
            there = ", ".join(free) or "none"
            near = nearest(key, free)
            problems.append(
                f"--opt-arg {key}: {optimizer} takes no {key}{near} (there are: {there})"
            )
        else:
            hint = _hint(known[key])
            try:
                ready[key] = _fitted(hint, _literal(text), text)
            except ValueError:
                wanted = inspect.formatannotation(hint)
                colons = ", with colons between numbers: 0.9:0.95" if "tuple" in wanted else ""
                problems.append(f"--opt-arg {key}={text}: {optimizer} wants {wanted}{colons}")
    if problems:
        raise UserError(*problems)
    return ready


def parameters(kind: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of `kind` that can be passed by name, in order."""
    try:
        signature = inspect.signature(kind, eval_str=True)
    except NameError:  # the annotation exists for type checkers only
        signature = inspect.signature(kind)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in signature.parameters.items() if p.kind in by_name}


def _hint(parameter: inspect.Parameter) -> Any:
    """Return a parameter's annotated type, else the type of its default."""
    hint, default = parameter.annotation, parameter.default
    if hint is inspect.Parameter.empty or isinstance(hint, str):
        return Any if default in (None, inspect.Parameter.empty) else type(default)
    return hint


def _literal(text: str) -> Any:
    """Return the Python value of a text: numbers joined by colons are a tuple; otherwise a str."""
    words = [{"true": "True", "false": "False", "none": "None"}.get(text.lower(), text)]
    if ":" in text:
        words = text.split(":")
    try:
        values = [ast.literal_eval(word) for word in words]
    except (ValueError, SyntaxError):
        return text
    return tuple(values) if ":" in text else values[0]


def _fitted(hint: Any, value: Any, text: str) -> Any:
    """Return `value` converted to `hint` (an int where a float is wanted becomes a float).

    Raises ValueError.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fitted(parts[0], value, text)
    if origin in (Union, types.UnionType):
        for part in sorted(parts, key=lambda part: (part is str, part is float)):
            with suppress(ValueError):
                return _fitted(part, value, text)
    elif origin is Literal:
        if text in (known := {str(part): part for part in parts}):
            return known[text]
    elif hint is tuple or origin is tuple:
        if isinstance(value, tuple) and (not parts or parts[-1] is ... or len(parts) == len(value)):
            endless = itertools.repeat(parts[0] if parts else float)
            kinds = parts if parts and parts[-1] is not ... else endless
            pairs = zip(kinds, value, strict=False)
            return tuple(_fitted(kind, one, str(one)) for kind, one in pairs)
    elif hint is str:
        return text
    elif hint is float and type(value) is int:
        return float(value)
    elif hint in (bool, int, float, type(None)) and type(value) is hint:
        return value
    raise ValueError(text)
