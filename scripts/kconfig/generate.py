"""The tools that make a .config: merge, randconfig, alldefconfig."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2.config.bind import bind, convert, option_hints, unwrap
from gpt2.config.errors import UserError
from gpt2.config.options import Assignment, Options
from gpt2.config.schema import ROOT_TREE
from gpt2.config.typed import Auto
from scripts.kconfig.files import read, write

#: Values that randconfig gives to text options, where they are allowed.
_NUMBERS = ("0", "1e-4", "0.003", "0.05", "0.1", "0.25", "0.5", "0.9", "0.99", "1", "2", "100")
#: Share of the options that randconfig changes.
_TOUCHED = 0.7


def merge(config: Path, fragments: Sequence[str]) -> None:
    """Apply fragments in order to `config`, or to the defaults if it does not exist.

    As in the menu, options that `config` leaves at their default follow the default when it
    changes. Raises UserError, and writes nothing, when a line of a fragment is wrong or has no
    effect.
    """
    if not fragments:
        raise UserError('merge needs files: make merge FRAGMENTS="a b"')
    merged = Options(ROOT_TREE)
    if config.exists():
        base = read(config)
        if problems := base.check():
            raise UserError(*problems, "correct these lines, or let 'make olddefconfig' drop them")
        for name, value in base.minimal().items():
            merged.give(name, value, str(config))
    start = _values(merged)
    report: list[str] = []
    touched: dict[str, str] = {}
    for fragment in fragments:
        before = _values(merged)
        given = _apply(merged, fragment)
        after = _values(merged)
        for name, where in given.items():
            if before[name] != after[name]:
                over = f", over {touched[name]}" if name in touched else ""
                change = f"{_shown(before[name])} -> {_shown(after[name])}"
                report.append(f"{name} {change} ({where}{over})")
        touched |= given
    _forget_what_is_void(merged, str(config))
    bind(merged)
    write(merged, config)
    for name, last in _values(merged).items():
        if name not in touched and last != start[name]:
            report.append(f"{name} {_shown(start[name])} -> {_shown(last)} (follows from these)")
    print("\n".join(report or ["the fragments change nothing"]))


def _values(options: Options) -> dict[str, str | None]:
    return {name: options.value(name) for name in options.names()}


def _shown(value: str | None) -> str:
    return "(none)" if value is None else value or "(empty)"


def _apply(merged: Options, fragment: str) -> dict[str, str]:
    """Apply the lines of `fragment`; return {option: file and line}."""
    options = read(Path(fragment))
    merged.problems += options.problems
    found = {}
    for given in options.given.values():
        choice = merged.symbols[given.name].choice
        if choice and given.value == "y":
            for rival in choice.syms:
                merged.given.pop(rival.name, None)
        if not choice or given.value == "y":
            found[choice.name if choice else given.name] = given.where.rpartition(": ")[0]
        merged.give(given.name, given.value, given.where)
    return found


def _forget_what_is_void(merged: Options, base: str) -> None:
    """Drop values of `base` that the fragments made ineffective; the fragments' lines report it.

    Dropping one can change others, so only one is dropped at a time.
    """
    while void := next((g for g in merged.given.values() if _is_void(merged, g, base)), None):
        del merged.given[void.name]
        merged.symbols[void.name].unset_value()


def _is_void(merged: Options, given: Assignment, base: str) -> bool:
    return given.where == base and bool(merged.symbols[given.name].str_value != given.value)


def randconfig(config: Path, seed: str) -> None:
    """Replace `config` by a random one that train.py accepts, determined by `seed`.

    Without a seed (an empty text) it draws one and prints it. Raises UserError for a wrong one.
    """
    if seed and not re.fullmatch(r"[0-9]{1,18}", seed):
        raise UserError(f"SEED={seed} is not a whole number: make randconfig SEED=1")
    number = int(seed) if seed else random.SystemRandom().randrange(2**31)
    rng = random.Random(number)
    while True:
        options = scattered(rng)
        try:
            bind(options)
        except UserError:
            continue  # contradicting options, such as a width and its heads
        break
    write(options, config)
    print(f"{config.name} is random; 'make randconfig SEED={number}' makes it again")


def scattered(rng: random.Random) -> Options:
    """Return options with random values, each valid by itself, but perhaps not together."""
    options = Options(ROOT_TREE)
    hints = option_hints(options)
    for name in options.names():
        if rng.random() < _TOUCHED and not options.unmet(name):
            options.give(name, _drawn(rng, options, name, hints.get(name, str)), "randconfig")
    return options


def _drawn(rng: random.Random, options: Options, name: str, hint: Any) -> str:
    if name in options.choices:
        members = options.members(name)
        return rng.choice([word for word, symbol in members.items() if not options.unmet(symbol)])
    if options.is_bool(name):
        return rng.choice("yn")
    if bounds := options.bounds(name):
        low, high = (int(end) for end in bounds.split(".."))
        powers = [2**k for k in range(64) if low <= 2**k <= high]
        return str(rng.choice([low, rng.randint(low, high), *powers]))
    kind, notes = unwrap(hint)
    if any(isinstance(note, Auto) for note in notes) and rng.random() < _TOUCHED:
        return "auto"
    fitting = [text for text in _NUMBERS if kind in (int, float) and _fits(text, kind, notes)]
    # Text that is not a number is a path or a name: only the default is known to be valid.
    return rng.choice(fitting or [options.value(name) or ""])


def _fits(text: str, kind: type[Any], notes: tuple[Any, ...]) -> bool:
    try:
        convert(text, kind, notes)
    except ValueError:
        return False
    return True


def alldefconfig(config: Path) -> None:
    """Replace `config` by the defaults."""
    write(Options(ROOT_TREE), config)
    print(f"{config.name} is now the defaults")
