"""Damage drawn from a seed: flipped bits, cuts, bytes from elsewhere, JSON of another shape."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

#: What a place in a JSON text is replaced by; _DEEP stands for brackets without end.
_DEEP = "@deep@"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 3, 10**30, 10**400, 0.5, 1e308, float("nan"), float("inf"), "",
    "x", "1", "../../x", "/etc/passwd", ".", "a/b", "nul\0", "\ud800", "<b>", [], [[]], [1, [2]],
    {}, {"a": 1}, [None] * 3, _DEEP,
)  # fmt: skip


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return `data` with one to three damages of any kind; never as it was."""
    found = data
    while found == data:
        for _ in range(rng.randint(1, 3)):
            found = rng.choice(_DAMAGES)(rng, found)
    return found


def spliced(rng: random.Random, data: bytes) -> bytes:
    """Return a JSON text with one or two values replaced, removed, moved or given twice."""
    value = json.loads(data)
    for _ in range(rng.randint(1, 2)):
        value = _spliced(rng, value)
    text = json.dumps(value).replace(json.dumps(_DEEP), "[" * 40_000 + "]" * 40_000)
    if rng.random() < 0.1:
        text = text.replace("{", '{"step": 1, "step": 2, ', 1)
    return text.encode()


def spliced_line(rng: random.Random, data: bytes) -> bytes:
    """Return lines of JSON with one of them changed, or what is no line of it put in."""
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = rng.choice([spliced, damaged])(rng, lines[place])
    return b"\n".join(lines) + rng.choice([b"", b"\n"])


def text_or_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return a file of JSON, damaged in its values or in its bytes."""
    return rng.choice([spliced, spliced, damaged])(rng, data)


def _spliced(rng: random.Random, value: Any) -> Any:
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places or rng.random() < 0.03:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    what = rng.random()
    if what < 0.7:
        holder[key] = rng.choice(VALUES)
    elif what < 0.85:
        del holder[key]
    else:
        other, there = rng.choice(places)
        holder[key] = copy.deepcopy(other[there])
    return value


def _places(value: Any, most: int = 8) -> list[tuple[Any, Any]]:
    """Return (holder, key) of places; of a long list only the first ones."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(min(len(value), most)))
    else:
        return []
    return [(value, key) for key in keys] + [p for key in keys for p in _places(value[key])]


def _flip(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 8])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _drop(rng: random.Random, data: bytes) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[start + rng.randint(1, 16) :]


def _put_in(rng: random.Random, data: bytes) -> bytes:
    pieces = [b"\0" * 9, b"\xff\xfe", b'{["', b"9" * 40, rng.randbytes(rng.randint(1, 40))]
    piece = rng.choice(pieces)
    start = rng.randint(0, len(data))
    return data[:start] + piece + data[start:]


def _noise(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 8, 200]))


def _swap(rng: random.Random, data: bytes) -> bytes:
    middle = rng.randint(0, len(data))
    return data[middle:] + data[:middle]


_DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _flip, _flip, _cut, _drop, _put_in, _noise, _swap,
)  # fmt: skip
