"""Options that one value pins for optimizers which would each have their own: a matrix says so."""

from __future__ import annotations

from gpt2.config.names import flag_of
from scripts.study.cells import options_of
from scripts.study.spec import LISTS, MatrixSpec, typed

_OPTIMIZER = LISTS["MATRIX_OPTIMIZERS"]
#: What is good for one optimizer and bad for another.
_SCALES = ("LEARNING_RATE", "WEIGHT_DECAY")


def pinned_notes(spec: MatrixSpec) -> list[str]:
    """Return a note for each option that makes a comparison of optimizers unfair, with a way out.

    A learning rate or weight decay that is given once holds for every optimizer; a beta that is
    given holds for one of them alone.
    """
    optimizers = spec.axes.get(_OPTIMIZER, ())
    if len(optimizers) < 2:
        return []
    notes = [_of_all(spec, option, optimizers) for option in _SCALES if option in spec.base]
    for name in optimizers:
        prefix = f"{name.upper().replace('-', '_')}_"
        notes += [_of_one(spec, o, name) for o in spec.base if o.startswith(prefix)]
    return notes


def _of_all(spec: MatrixSpec, option: str, optimizers: tuple[str, ...]) -> str:
    without = {name: value for name, value in spec.base.items() if name != option}
    own = {name: options_of({**without, _OPTIMIZER: name}).value(option) for name in optimizers}
    defaults = ", ".join(f"{name} {value or 'none'}" for name, value in own.items())
    place, value = _place(spec, option), spec.base[option]
    return (
        f"every optimizer gets {flag_of(option)} {value}, given {place}; their own defaults are "
        f"{defaults}. Take it out there, or let each choose: "
        f'MATRIX_TUNE="{typed(option)}={value},..."'
    )


def _of_one(spec: MatrixSpec, option: str, optimizer: str) -> str:
    return (
        f"{flag_of(option)} {spec.base[option]}, given {_place(spec, option)}, is for {optimizer} "
        "alone: the other optimizers keep theirs"
    )


def _place(spec: MatrixSpec, option: str) -> str:
    place = spec.where.get(option, "--").partition(": CONFIG_")[0]
    return "on the command line" if place.startswith("--") else f"in {place}"
