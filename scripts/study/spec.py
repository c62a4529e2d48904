"""What a matrix is about: axes, seeds and the options of every cell, out of .config or YAML."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpt2.config.actions import NoActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import UserError
from gpt2.config.library import is_own_code
from gpt2.config.names import flag_of, nearest
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE, TRAIN_TREE
from gpt2.config.typed import QUALIFIED
from scripts.flags import differing

#: Axes with a list of their own: its symbol in scripts/Kconfig and the option it gives values to.
LISTS = {
    "MATRIX_OPTIMIZERS": "OPTIMIZER",
    "MATRIX_PRUNING_METHODS": "PRUNING_METHOD",
    "MATRIX_SPARSITIES": "TARGET_SPARSITY",
}
RATE = "LEARNING_RATE"
_LARGEST_SEED = 2**31 - 1
_MOST_SEEDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Study:
    """A matrix before its cells: `axes` and `base` are option names with values as in flags."""

    name: str
    base: dict[str, str]
    axes: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    jobs: int
    timeout: int | None  # seconds; None is auto, 0 is no limit
    wait: int
    keep: str

    @property
    def tuned(self) -> bool:
        """Whether a learning rate is chosen, on seeds that are not reported."""
        return len(self.axes.get(RATE, ())) > 1 and bool(self.tuning_seeds)


@dataclass
class Asked:
    """A matrix in the user's words, each text with where it was given."""

    texts: dict[str, str] = field(default_factory=dict)  # MATRIX_X, without its prefix
    axes: dict[str, list[str]] = field(default_factory=dict)
    base: dict[str, str] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)  # of a text, an axis or a base option
    problems: list[str] = field(default_factory=list)

    def place(self, name: str) -> str:
        """Return where something was given."""
        return self.where.get(name, f"MATRIX_{name}" if name in self.texts else name)


def from_config(path: Path) -> Asked:
    """Read the matrix of a .config. Raises UserError when train.py would refuse the file."""
    options = Options(ROOT_TREE)
    options.read(path)
    bind(options)
    return from_options(options)


def from_options(options: Options) -> Asked:
    """Read the matrix of a root tree's options."""
    asked = Asked(base=differing(options))
    for name in options.names():
        if name.startswith("MATRIX_"):
            key = name.removeprefix("MATRIX_")
            asked.texts[key] = options.value(name) or ""
            where = options.origin(name)
            asked.where[key] = name if where == flag_of(name) else where
    for symbol, option in LISTS.items():
        key = symbol.removeprefix("MATRIX_")
        if values := _listed(asked.texts.pop(key)):
            asked.axes[option] = values
            asked.where[option] = asked.where[key]
    _further_axes(asked)
    return asked


def add_flags(asked: Asked, argv: Sequence[str]) -> None:
    """Give every cell the flags `argv` of train.py. Raises UserError for wrong ones."""
    options, _ = parse("matrix.py", "", argv, NoActions)
    for given in options.given.values():
        choice = options.symbols[given.name].choice
        if choice and given.value == "n":
            continue
        name = choice.name if choice else given.name
        asked.base[name] = str(options.value(name)) if choice else given.value
        asked.where[name] = given.where
        if name in asked.axes:
            asked.problems.append(f"{given.where} is an axis of this matrix: leave it out")
        elif name == "SEED":
            asked.problems.append("--seed is no option of a matrix: seeds have a list of their own")
    asked.problems += options.problems


def _further_axes(asked: Asked) -> None:
    """Read MATRIX_AXES: "learning-rate=3e-4,6e-4; state-score=fisher"."""
    where = asked.where["AXES"]
    for part in filter(None, map(str.strip, asked.texts.pop("AXES").split(";"))):
        name, equals, values = part.partition("=")
        option = option_name(name.strip())
        if not equals:
            asked.problems.append(f"{where}: {part!r} is no axis: write option=value,value")
        elif option in LISTS.values():
            symbol = next(symbol for symbol, own in LISTS.items() if own == option)
            asked.problems.append(f"{where}: {name.strip()} has a list of its own: {symbol}")
        elif option in asked.axes:
            asked.problems.append(f"{where}: {name.strip()} is an axis twice")
        else:
            asked.axes[option] = [value.strip() for value in values.split(",")]
            asked.where[option] = where


def option_name(text: str) -> str:
    """Return the option of a name as it is typed: learning-rate is LEARNING_RATE."""
    return text.removeprefix("--").upper().replace("-", "_")


def typed(option: str) -> str:
    """Return an option's name as it is typed: LEARNING_RATE is learning-rate."""
    return flag_of(option).removeprefix("--")


def _listed(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text) if word]


def study(asked: Asked) -> Study:
    """Check what was asked for, value by value. Raises UserError naming all that is wrong."""
    problems = list(asked.problems)
    options = _tree(TRAIN_TREE)
    for option, values in asked.axes.items():
        problems += [f"{asked.place(option)}: {text}" for text in _wrong(options, option, values)]
    for option, value in asked.base.items():
        if option not in options.names():
            problems.append(f"{asked.place(option)}: {_no_option(options, option)}")
        # A flag after -- may name one: it is from the command line.
        elif not asked.place(option).startswith("--"):
            problems += [f"{asked.place(option)}: {text}" for text in _own_code(option, value)]
    seeds = _seeds(asked, "SEEDS", problems)
    tuning = _seeds(asked, "TUNING_SEEDS", problems)
    if not seeds and not problems:
        problems.append(f"{asked.place('SEEDS')}: an empty matrix: give a seed, such as 1..5")
    rates = len(asked.axes.get(RATE, ())) > 1
    if rates and (both := sorted(set(seeds) & set(tuning))):
        problems.append(
            f"{asked.place('TUNING_SEEDS')}: seed {both[0]} is reported, too: a rate is chosen on "
            "other seeds than those it is judged by"
        )
    name, keep = asked.texts["NAME"], asked.texts["KEEP"]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        problems.append(
            f"{asked.place('NAME')}: {name!r} is no name: letters, digits, dots, dashes and _"
        )
    ways = list(_tree(ROOT_TREE).members("MATRIX_KEEP"))
    if keep not in ways:
        problems.append(f"{asked.place('KEEP')}: {keep!r} is unknown; there are {', '.join(ways)}")
    timeout = asked.texts["TIMEOUT"]
    seconds = None if timeout == "auto" else _number(asked, "TIMEOUT", 0, problems, " or auto")
    jobs = _number(asked, "JOBS", 1, problems)
    wait = _number(asked, "WAIT", 0, problems)
    if problems:
        raise UserError(*problems)
    return Study(
        name=name,
        base={o: v for o, v in asked.base.items() if o not in asked.axes},
        axes={option: tuple(dict.fromkeys(values)) for option, values in asked.axes.items()},
        seeds=seeds,
        tuning_seeds=tuning if rates else (),
        jobs=jobs,
        timeout=seconds,
        wait=wait,
        keep=keep,
    )


@functools.cache
def _tree(path: Path) -> Options:
    """Return the options of a tree, to look names up in."""
    return Options(path)


def _no_option(options: Options, option: str) -> str:
    near = nearest(typed(option), [typed(name) for name in options.names()])
    return f"there is no option {typed(option)!r}{near}"


def _wrong(options: Options, option: str, values: Sequence[str]) -> Iterable[str]:
    """Say what is wrong with an axis, as far as it can be said without the rest of a cell."""
    name = typed(option)
    if option == "SEED":
        yield "seed is no axis: seeds have a list of their own"
    elif option not in options.names():
        yield _no_option(options, option)
    elif not values or "" in values:
        yield f"{name} has an empty value: write {name}=value,value"
    elif options.is_bool(option):
        yield from (f"{name} is y or n, not {v!r}" for v in values if v not in ("y", "n"))
    elif option in options.choices:
        known = list(options.members(option))
        for value in values:
            if option in QUALIFIED and ":" in value:
                yield from _own_code(option, value)
            elif value not in known:
                hint = nearest(value, known)
                yield f"there is no {name} {value!r}{hint} (there are: {', '.join(known)})"


def _own_code(option: str, value: str) -> Iterable[str]:
    held = {symbol for _, symbol in QUALIFIED.values()}
    if (option in QUALIFIED or option in held) and ":" in value and is_own_code(value):
        yield f"{value} is code of your own, which no file may have executed"


def _seeds(asked: Asked, key: str, problems: list[str]) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for word in _listed(asked.texts[key]):
        match = re.fullmatch(r"([0-9]{1,10})(?:\.\.([0-9]{1,10}))?", word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= _LARGEST_SEED or last - first >= _MOST_SEEDS:
            problems.append(
                f"{asked.place(key)}: {word!r} is no seed: whole numbers up to {_LARGEST_SEED}, "
                "or a range of them such as 1..5"
            )
            continue
        found |= dict.fromkeys(range(first, last + 1))
    return tuple(found)


def _number(asked: Asked, key: str, least: int, problems: list[str], other: str = "") -> int:
    text = asked.texts[key]
    if re.fullmatch("[0-9]{1,8}", text) and int(text) >= least:
        return int(text)
    problems.append(f"{asked.place(key)}: {text!r} is no whole number of at least {least}{other}")
    return least
