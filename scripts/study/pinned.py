"""Notes on options with one value for all optimizers, where each should have its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gpt2.config.names import flag_of
from scripts.study.cells import options_of
from scripts.study.spec import LISTS, MatrixSpec, typed

_OPTIMIZER = LISTS["MATRIX_OPTIMIZERS"]
#: Options whose good values differ between optimizers.
_SCALES = ("LEARNING_RATE", "WEIGHT_DECAY")


def pinned_notes(spec: MatrixSpec) -> list[str]:
    """Return a note for each option that makes a comparison of optimizers unfair, with a remedy.

    A learning rate or weight decay that is given once applies to every optimizer. A beta that is
    given applies to only one of them, and others may have another.
    """
    optimizers = spec.axes.get(_OPTIMIZER, ())
    if len(optimizers) < 2:
        return []
    notes = [_of_all(spec, option, optimizers) for option in _SCALES if option in spec.base]
    for name in optimizers:
        for option in (o for o in spec.base if o.startswith(_prefix(name))):
            notes += _of_one(spec, option, name, optimizers)
    return notes


def for_one_optimizer(base: Iterable[str], optimizers: Sequence[str]) -> list[str]:
    """Return the options of `base` that were chosen for one of several optimizers.

    These are the learning rate, the weight decay, and options that only one of them has.
    """
    if len(optimizers) < 2:
        return []
    prefixes = tuple(map(_prefix, optimizers))
    return [option for option in base if option in _SCALES or option.startswith(prefixes)]


def _prefix(optimizer: str) -> str:
    return f"{optimizer.upper().replace('-', '_')}_"


def _of_all(spec: MatrixSpec, option: str, optimizers: tuple[str, ...]) -> str:
    without = {name: value for name, value in spec.base.items() if name != option}
    own = {name: options_of({**without, _OPTIMIZER: name}).value(option) for name in optimizers}
    defaults = ", ".join(f"{name} {value or 'none'}" for name, value in own.items())
    place, value = _place(spec, option), spec.base[option]
    return (
        f"every optimizer gets {flag_of(option)} {value}, given {place}; their own defaults are "
        f"{defaults}. Take it out there, or let each choose: "
        f'MATRIX_TUNE="{typed(option)}=log:x0.25..x4"'
    )


def _of_one(
    spec: MatrixSpec, option: str, optimizer: str, optimizers: tuple[str, ...]
) -> Iterator[str]:
    """Yield a note where other optimizers have an option of this name with another value."""
    name = option.removeprefix(_prefix(optimizer))
    others = {}
    for other in optimizers:
        options = options_of({**spec.base, _OPTIMIZER: other})
        if other != optimizer and (own := _prefix(other) + name) in options.symbols:
            others[own] = options.value(own) or ""
    if any(value != spec.base[option] for value in others.values()):
        values = ", ".join(f"{flag_of(own)} {value}" for own, value in others.items())
        yield (
            f"{flag_of(option)} {spec.base[option]}, given {_place(spec, option)}, is for "
            f"{optimizer} alone, beside {values}: give all of them one value, or none"
        )


def _place(spec: MatrixSpec, option: str) -> str:
    place = spec.where.get(option, "--").partition(": CONFIG_")[0]
    return "on the command line" if place.startswith("--") else f"in {place}"
