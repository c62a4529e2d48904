"""Typed records of JSON: a dataclass declares the fields, and one reader checks them.

A field's key is its name, or that of stored_as. A field without a default is required; one with a
default may be missing, as in a file of an older version. Keys that the class does not name, as of a
newer version, are kept, and to_json writes them back.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

#: Metadata of a field that is not written when it is None.
OMIT_NONE: Final[Mapping[str, object]] = types.MappingProxyType({"omit_none": True})
_NAMES: Final = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    dict: "an object",
    list: "a list",
    types.NoneType: "null",
}


def stored_as(key: str) -> dict[str, str]:
    """Return the metadata of a field with another key in the file."""
    return {"key": key}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record of a JSON file. `as_read` is the object that it was read from, empty if it is new.

    Fields may be str, bool, int, float (which takes whole numbers, too), Any, other records, and X
    | None, tuple[X, ...], tuple[X, Y] and dict[str, X] of these.
    """

    as_read: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


Kind = TypeVar("Kind", bound=Record)


class _Entry(NamedTuple):
    """A field of a record: its attribute, its key in JSON, its type, and its options."""

    attribute: str
    key: str
    hint: Any
    required: bool
    omit_none: bool


_KNOWN: dict[type[Record], tuple[_Entry, ...]] = {}


def from_json(kind: type[Kind], value: Any, name: str = "") -> Kind:
    """Return the record in a JSON value; `name` is the value's place in its file.

    Raises ValueError naming the first field that is missing or of another type.
    """
    found: dict[str, Any] = _checked(dict, value, name)
    fields: dict[str, Any] = {}
    for entry in _entries(kind):
        place = f"{name}.{entry.key}" if name else entry.key
        if entry.key in found:
            fields[entry.attribute] = _converted(entry.hint, found[entry.key], place)
        elif entry.required:
            raise ValueError(f"{place} is missing")
    return kind(as_read=found, **fields)


def salvage(kind: type[Kind], value: Any) -> tuple[Kind, list[str]]:
    """Return a record of the readable part of a JSON value, and the problems of the rest.

    A field of another type gets its default. All fields of `kind` must have one.
    """
    if not isinstance(value, dict):
        return kind(), [f"it is {_name_of(value)}, not an object"]
    fields: dict[str, Any] = {}
    problems: list[str] = []
    for entry in _entries(kind):
        assert not entry.required, f"{kind.__name__}.{entry.attribute} has no default"
        if entry.key in value:
            try:
                fields[entry.attribute] = _converted(entry.hint, value[entry.key], entry.key)
            except ValueError as error:
                problems.append(str(error))
    return kind(as_read=value, **fields), problems


def to_json(record: Record) -> dict[str, Any]:
    """Return a record as a JSON object: as it was read, with the current fields."""
    found = dict(record.as_read)
    for entry in _entries(type(record)):
        value = getattr(record, entry.attribute)
        if value is not None or not entry.omit_none or entry.key in found:
            found[entry.key] = _plain(value)
    return found


def _entries(kind: type[Record]) -> tuple[_Entry, ...]:
    """Return the fields of a record class; computed once."""
    if kind in _KNOWN:
        return _KNOWN[kind]
    hints = typing.get_type_hints(kind)
    _KNOWN[kind] = tuple(
        _Entry(
            one.name,
            one.metadata.get("key", one.name),
            hints[one.name],
            one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING,
            one.metadata.get("omit_none", False),
        )
        for one in dataclasses.fields(kind)
        if one.name != "as_read"
    )
    return _KNOWN[kind]


def _converted(hint: Any, value: Any, place: str) -> Any:
    """Return a JSON value converted to a field of type `hint`.

    Raises ValueError naming `place`.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = (one for one in arguments if one is not types.NoneType)
        return _converted(hint, value, place)
    if origin is tuple:
        return _tuple(arguments, _checked(list, value, place), place)
    if origin is dict:
        pairs = _checked(dict, value, place).items()
        return {key: _converted(arguments[1], part, f"{place}.{key}") for key, part in pairs}
    if issubclass(hint, Record):
        return from_json(hint, value, place)
    return _checked(hint, value, place)


def _tuple(hints: tuple[Any, ...], parts: list[Any], place: str) -> tuple[Any, ...]:
    """Return a JSON list as a tuple of one type, or of one type for each index."""
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(parts)
    if len(parts) != len(hints):
        raise ValueError(f"{place} has {len(parts)} entries, not {len(hints)}")
    return tuple(
        _converted(hint, part, f"{place}[{number}]")
        for number, (hint, part) in enumerate(zip(hints, parts, strict=True))
    )


def _checked(kind: type, value: Any, place: str) -> Any:
    """Return a JSON value of a plain type.

    Raises ValueError if it has another.
    """
    kinds = (int, float) if kind is float else (kind,)
    # In Python, a bool is an int.
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{place or 'it'} is {_name_of(value)}, not {_NAMES[kind]}")
    return value


def _name_of(value: Any) -> str:
    return _NAMES[type(value)]


def _plain(value: Any) -> Any:
    """Return a field's value as JSON."""
    if isinstance(value, Record):
        return to_json(value)
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value
