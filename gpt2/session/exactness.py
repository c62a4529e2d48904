"""Whether a resume is bit-exact, which conditions changed, and the warning that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Kind = TypeVar("Kind", list[Any], dict[str, Any])

#: Conditions that must not change during a run for it to be bit-exact.
_SAME = ("host", "device", "device_name", "threads", "precision", "ranks", "micro_batch")
#: Packages that compute nothing.
_INERT = ("tiktoken", "safetensors", "kconfiglib")


def not_exact(changed: Sequence[str]) -> str:
    """Return the warning about a resume under `changed` conditions."""
    return (
        f"resuming with {', '.join(changed)}: the data order is unchanged, but results are no "
        "longer bit-identical (rounding; with --dropout perhaps other masks)"
    )


def changed_conditions(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how the conditions of two sessions of a run differ: "threads 2, not 1"."""
    pairs = [(key, _kind(key, before[key]), _kind(key, now[key])) for key in _SAME if key in before]
    versions = kept(before, "versions", dict)
    pairs += [
        (name, versions[name], version)
        for name, version in now["versions"].items()
        if name in versions and name not in _INERT
    ]
    found = [f"{name.replace('_', ' ')} {new}, not {old}" for name, old, new in pairs if old != new]
    if before.get("code") not in (None, now["code"]):
        found.append("another version of this program")
    return found


def _kind(key: str, value: Any) -> Any:
    """Return the part of a condition that matters: of a device its type, not its number."""
    return str(value).partition(":")[0] if key == "device" else value


def kept(record: Mapping[str, Any], key: str, kind: type[Kind]) -> Kind:
    """Return an entry of run.json; an empty one where it is missing or of another type."""
    found = record.get(key)
    return found if isinstance(found, kind) else kind()
