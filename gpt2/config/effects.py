"""Which options affect a result, by the notes on their fields; used by resume and the report."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from gpt2.config import plugins
from gpt2.config.bind import symbols, unwrap
from gpt2.config.typed import (
    PLUGIN_PACKAGES,
    DataConfig,
    Identity,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    PruneConfig,
    Recorded,
    ResultNeutral,
    TrainConfig,
)

Note = ResultNeutral | Identity | Recorded
_KINDS = (DataConfig, ModelConfig, OptimConfig, PruneConfig, TrainConfig, MachineConfig)


@cache
def notes() -> dict[str, Note]:
    """Return the note on every option that has one, by its name in lower case.

    The name is its field's; a plug-in's own option has the plug-in's name as prefix.
    """
    kinds: list[tuple[str, type[Any]]] = [("", kind) for kind in _KINDS]
    for package in PLUGIN_PACKAGES.values():
        for name in plugins.names(package):
            if own := plugins.options_class(package, name):
                kinds.append((name.replace("-", "_").upper() + "_", own))
    found: dict[str, Note] = {}
    for prefix, kind in kinds:
        names = symbols(kind, prefix)
        for field, hint in get_type_hints(kind, include_extras=True).items():
            for note in unwrap(hint)[1]:
                if isinstance(note, Note):
                    found[names[field].lower()] = note
    return found


def free_at_resume(values: Mapping[str, Any]) -> set[str]:
    """Return the options that may differ when a run with these `values`, by field, is resumed."""
    return {
        field
        for field, note in notes().items()
        if (isinstance(note, ResultNeutral) and _holds(note, values))
        or (isinstance(note, Identity) and note.path)
    }


def product_at_resume() -> tuple[str, ...]:
    """Return the options of which only the product must stay the same at a resume."""
    return tuple(
        field for field, note in notes().items() if isinstance(note, Recorded) and note.product
    )


def not_compared(values: Mapping[str, Any]) -> set[str]:
    """Return the options that do not distinguish rows, for a run with these `values`."""
    return {
        field
        for field, note in notes().items()
        if not isinstance(note, ResultNeutral) or _holds(note, values)
    }


def _holds(note: ResultNeutral, values: Mapping[str, Any]) -> bool:
    return note.unless is None or values.get(note.unless[0]) != note.unless[1]
