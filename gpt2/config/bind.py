"""Turn option texts into the frozen dataclasses of typed.py, reporting every problem at once."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from gpt2.config import plugins
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY
from gpt2.config.sizes import parse_size
from gpt2.config.typed import (
    PLUGIN_PACKAGES,
    Auto,
    Config,
    DataConfig,
    MachineConfig,
    ModelConfig,
    Named,
    OptimConfig,
    OptionsOf,
    PruneConfig,
    Required,
    Size,
    TrainConfig,
    Within,
)

#: Cached annotations of each dataclass: Python evaluates them at every call.
_evaluated: dict[type[Any], dict[str, Any]] = {}


def _hints(kind: type[Any]) -> dict[str, Any]:
    """Return the annotations of a dataclass with their notes."""
    if kind not in _evaluated:
        _evaluated[kind] = get_type_hints(kind, include_extras=True)
    return _evaluated[kind]


class _Unbound:
    """Marks a field whose value was refused; the problem is already on the list."""


def bind(options: Options) -> Config:
    """Return the typed configuration.

    Raises UserError naming every problem of every option.
    """
    problems = options.check()
    binder = _Binder(options, problems)
    parts = {
        "data": binder.build(DataConfig),
        "model": binder.build(ModelConfig),
        "optim": binder.build(OptimConfig, options=binder.plugin_options("OPTIMIZER")),
        "train": binder.build(TrainConfig, options=binder.plugin_options("TRACKER")),
        "machine": binder.build(MachineConfig),
    }
    if options.value("PRUNING_METHOD") == "none":
        parts["prune"] = None
    else:
        parts["prune"] = binder.build(PruneConfig, options=binder.plugin_options("PRUNING_METHOD"))
    if problems:
        raise UserError(*problems)
    return Config(**parts)


def option_hints(options: Options) -> dict[str, Any]:
    """Return the annotation of every option that a dataclass reads, by option name."""
    kinds: list[tuple[str, Any]] = [
        ("", kind)
        for kind in (DataConfig, ModelConfig, OptimConfig, PruneConfig, TrainConfig, MachineConfig)
    ]
    for choice, package in PLUGIN_PACKAGES.items():
        for member in options.members(choice):
            if kind := plugins.options_class(package, member):
                kinds.append((member.upper().replace("-", "_") + "_", kind))
    return {
        symbol: _hints(kind)[field]
        for prefix, kind in kinds
        for field, symbol in symbols(kind, prefix).items()
        if field != "options" and not _stands_on(_hints(kind)[field])
    }


def symbols(kind: type[Any], prefix: str = "") -> dict[str, str]:
    """Return the symbol that each field of dataclass `kind` reads: `prefix` and the field's name.

    The note Named overrides the symbol.
    """
    found = {}
    for field, hint in _hints(kind).items():
        own = [note.symbol for note in unwrap(hint)[1] if isinstance(note, Named)]
        found[field] = own[0] if own else prefix + field.upper()
    return found


def own_values(plugin: str, own: Any) -> dict[str, Any]:
    """Return the values of a plug-in's `Options` by option name, with those of its base."""
    prefix = plugin.replace("-", "_") + "_"
    names = symbols(type(own), prefix.upper())
    found: dict[str, Any] = {}
    for field, hint in _hints(type(own)).items():
        value = getattr(own, field)
        if not (base := _stands_on(hint)):
            found[names[field].lower()] = value
        elif value is not None:
            found |= own_values(getattr(own, base.choice.lower().removeprefix(prefix)), value)
    return found


def _stands_on(hint: Any) -> OptionsOf | None:
    return next((note for note in unwrap(hint)[1] if isinstance(note, OptionsOf)), None)


class _Binder:
    def __init__(self, options: Options, problems: list[str]) -> None:
        self.options = options
        self.problems = problems

    def build(self, kind: type[Any], prefix: str = "", **ready: Any) -> Any:
        """Build dataclass `kind`, field by field; None when one of its values was refused."""
        hints = _hints(kind)
        values = dict(ready)
        for field, symbol in symbols(kind, prefix).items():
            if field not in ready:
                values[field] = self.field(symbol, hints[field])
        if any(isinstance(value, _Unbound) for value in values.values()):
            return None
        try:
            return kind(**values)
        except ValueError as error:
            self.problems.append(str(error))
            return None

    def plugin_options(self, choice: str, kind_of: str | None = None) -> Any:
        """Build the `Options` of the plug-in chosen in `choice`; None when it has none.

        `kind_of` is the choice of all plug-ins of its kind, if that is another.
        """
        name = self.options.value(choice)
        package = PLUGIN_PACKAGES[kind_of or choice]
        kind = plugins.options_class(package, name) if name else None
        if name is None or kind is None:
            return None
        return self.build(kind, prefix=name.upper().replace("-", "_") + "_")

    def field(self, name: str, hint: Any) -> Any:
        if base := _stands_on(hint):
            return self.plugin_options(base.choice, base.kind)
        text = self.options.value(name)
        if text is None:
            return None
        kind, notes = unwrap(hint)
        if any(isinstance(note, Auto) for note in notes) and text == "auto":
            return None
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if kind is Path and text == "" and type(None) in get_args(plain):
            return None
        needed = [note.message for note in notes if isinstance(note, Required)]
        if needed and text == "" and not self.options.default(name):
            self.problems += needed
            return _Unbound()
        try:
            return convert(text, kind, notes)
        except ValueError as error:
            self.problems.append(f"{self.options.origin(name)}: {error}")
            return _Unbound()


def unwrap(hint: Any) -> tuple[type[Any], tuple[Any, ...]]:
    """Return the plain type of an annotation, without None, and its notes."""
    notes: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        notes = tuple(rest)
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    return hint, notes


def convert(text: str, kind: type[Any], notes: tuple[Any, ...] = ()) -> Any:
    """Convert an option's text to `kind`.

    Raises ValueError naming the problem.
    """
    if kind is bool:
        return text == "y"
    if kind is Path:
        if not text:
            raise ValueError("a path is needed")
        # Paths in flags are absolute by now; relative ones are relative to the repository.
        return REPOSITORY / text
    if kind not in (int, float):
        return kind(text)
    if any(isinstance(note, Size) for note in notes):
        return parse_size(text)
    what = "a whole number" if kind is int else "a number"
    if any(isinstance(note, Auto) for note in notes):
        what += " or auto"
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {what}") from None
    for note in notes:
        if isinstance(note, Within) and value not in note:
            percent = note.share and 1 < value <= 100
            meant = f" ({value / 100:g} is {value:g} %)" if percent else ""
            raise ValueError(f"{text} is outside {note.interval}{meant}")
    return value
