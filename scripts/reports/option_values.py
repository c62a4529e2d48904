"""Options of runs by symbol: which belong to pruning, which do not matter, equal values."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from functools import cache

from gpt2.config.effects import not_compared
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.typed import TIMES, PruneConfig
from scripts.reports.runs import Run

#: Options that determine the length of a run.
LENGTH = ("NUM_EPOCHS", "MAX_STEPS", "MAX_TIME")
_KEPT = "KEEP_SPARSITY"
_PRUNING = {_KEPT, *(field.name.upper() for field in dataclasses.fields(PruneConfig))}


def plain_value(text: str | None) -> float | str | None:
    """Return a value so that equal ones compare equal: 1e-3 and 0.001."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def setting(name: str, value: str | None) -> str:
    """Return an option with its value for a reader: max-time no limit."""
    return f"{flag_of(name).removeprefix('--')} {value_text(name, value)}"


def value_text(name: str, value: str | None) -> str:
    """Return the value of an option, by its symbol, for a reader."""
    if name in LENGTH and plain_value(value) == 0.0:
        return "no limit"
    if name in TIMES and value:
        return f"{value} s"
    return "-" if value is None else value or repr("")


def not_compared_of(options: Mapping[str, str]) -> set[str]:
    """Return the options, by symbol, that do not distinguish rows."""
    values = {name.lower(): value for name, value in options.items()}
    return {name.upper() for name in not_compared(values)}


def method_of(options: Mapping[str, str]) -> str:
    """Return the pruning method: none without pruning, kept where zeros were kept."""
    return "kept" if options.get(_KEPT) == "y" else options.get("PRUNING_METHOD", "none")


def of_pruning(name: str) -> bool:
    """Return whether an option, by its symbol, belongs to pruning or a pruning method."""
    return name in _PRUNING or name.startswith(_methods())


@cache
def sparse_from_the_start(method: str) -> bool:
    """Return whether a pruning method has the target sparsity from the first step."""
    options = Options()
    if method not in options.members("PRUNING_METHOD"):
        return False
    options.give("PRUNING_METHOD", method, "--pruning-method")
    return options.value("PRUNING_DYNAMIC") == "y"


@cache
def _methods() -> tuple[str, ...]:
    members = Options().members("PRUNING_METHOD")
    return tuple(f"{word.upper().replace('-', '_')}_" for word in members)


def options_key(run: Run, besides: Sequence[str] = (), pruning: bool = True) -> Hashable:
    """Return a key that is equal for runs of equal options, except those in `besides`.

    Without `pruning`, the options of pruning are ignored, too.
    """
    kept = run.options.keys() - not_compared_of(run.options) - set(besides)
    return tuple(
        (name, plain_value(run.options[name]))
        for name in sorted(kept)
        if pruning or not of_pruning(name)
    )
