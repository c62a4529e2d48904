"""JSON from files, checked: the value has the right shape, or ValueError is raised.

A shape is a type, a tuple of types, [shape] for a list, or {name: shape} for an object with at
least these names; a name that ends in "?" may be missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.records import Kind, from_json

#: Largest JSON file, in bytes, that is read: far more than any of ours.
_LARGEST = 256 << 20
#: Most digits of a whole number: more than any count of ours, and still a float.
_DIGITS = 40


def parse(text: str) -> Any:
    """Return the value of a JSON text.

    Raises ValueError, also where a name occurs twice in an object.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested deeper than anything this program writes") from None


def read_object(path: Path, shape: Any = None) -> dict[str, Any]:
    """Return the JSON object in a file, checked against `shape` if given.

    Raises OSError, and ValueError where the file holds no such object.
    """
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    value = parse(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it holds no object")
    if shape is not None and (wrong := mismatch(value, shape)):
        raise ValueError(wrong)
    return value


def read_record(path: Path, kind: type[Kind], advice: str, code: Exit = Exit.CONFIG) -> Kind:
    """Return the record that a JSON file holds.

    Raises FileNotFoundError, or UserError naming the file, the problem and `advice`.
    """
    try:
        return from_json(kind, read_object(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; {advice}", code=code) from error


def mismatch(value: Any, shape: Any, name: str = "it") -> str | None:
    """Return how `value` differs from a shape; None where it fits."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name} is not an object"
        for key, inner in shape.items():
            plain = key.removesuffix("?")
            place = plain if name == "it" else f"{name}.{plain}"
            if plain in value:
                if wrong := mismatch(value[plain], inner, place):
                    return wrong
            elif plain == key:
                return f"{place} is missing"
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is not a list"
        found = (mismatch(part, shape[0], f"{name}[{n}]") for n, part in enumerate(value))
        return next((wrong for wrong in found if wrong), None)
    kinds = shape if isinstance(shape, tuple) else (shape,)
    if isinstance(value, bool) and bool not in kinds:  # in Python, a bool is an int
        return f"{name} is not of type {_words(kinds)}"
    return None if isinstance(value, kinds) else f"{name} is not of type {_words(kinds)}"


def _words(kinds: tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"it has a whole number of {len(text):,} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it gives {twice[:50]!r} twice")
    return found
