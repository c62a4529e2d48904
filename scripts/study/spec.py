"""The specification of a matrix: axes, seeds and options of every cell, from .config or YAML."""

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
from gpt2.config.text import items
from gpt2.config.typed import QUALIFIED
from scripts.flags import differing
from scripts.study.search import Dimension, dimension

#: Axes with their own list: its symbol in scripts/Kconfig and the option of its values.
LISTS = {
    "MATRIX_OPTIMIZERS": "OPTIMIZER",
    "MATRIX_PRUNING_METHODS": "PRUNING_METHOD",
    "MATRIX_SPARSITIES": "TARGET_SPARSITY",
}
RATE = "LEARNING_RATE"
#: Settings of the menu "Slurm", without MATRIX_SLURM_.
SLURM_KEYS = (
    "PARTITION", "TIME_LIMIT", "ARRAY", "GPUS", "CPUS", "MEMORY", "ACCOUNT", "QOS", "CONSTRAINT",
    "SIGNAL", "LINES",
)  # fmt: skip
_LARGEST_SEED = 2**31 - 1
_MOST_SEEDS = 10_000


@dataclass(frozen=True, kw_only=True)
class MatrixSpec:
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
    where: dict[str, str] = field(default_factory=dict)  # origin of each base option given
    tune: tuple[Dimension, ...] = ()
    trials: int = 0
    tune_scramble: int = 0
    controls: bool = False  # of pruning: add small dense models
    added: tuple[str, ...] = ()  # pruning methods added as controls

    @property
    def tuned(self) -> bool:
        """Return whether a learning rate, or a trial, is chosen on seeds that are not reported."""
        several = len(self.axes.get(RATE, ())) > 1
        return bool(self.tune) or (several and bool(self.tuning_seeds))


@dataclass
class RawSpec:
    """A matrix as given, before any check; each text with its origin."""

    texts: dict[str, str] = field(default_factory=dict)  # MATRIX_X, without its prefix
    axes: dict[str, list[str]] = field(default_factory=dict)
    base: dict[str, str] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)  # of a text, an axis or a base option
    problems: list[str] = field(default_factory=list)

    def place(self, name: str) -> str:
        """Return where a value was given."""
        return self.where.get(name, f"MATRIX_{name}" if name in self.texts else name)


def from_config(path: Path) -> RawSpec:
    """Read the matrix of a .config.

    Raises UserError when train.py would refuse the file.
    """
    options = Options(ROOT_TREE)
    options.read(path)
    bind(options)
    return from_options(options)


def from_options(options: Options) -> RawSpec:
    """Read the matrix of a root tree's options."""
    raw = RawSpec(base=differing(options))
    places = {name: options.origin(name) for name in raw.base}
    raw.where = {name: place for name, place in places.items() if place != flag_of(name)}
    for name in options.names():
        if name.startswith("MATRIX_"):
            key = name.removeprefix("MATRIX_")
            raw.texts[key] = options.value(name) or ""
            where = options.origin(name)
            raw.where[key] = name if where == flag_of(name) else where
    for symbol, option in LISTS.items():
        key = symbol.removeprefix("MATRIX_")
        if values := items(raw.texts.pop(key)):
            raw.axes[option] = values
            raw.where[option] = raw.where[key]
    _further_axes(raw)
    return raw


def add_flags(raw: RawSpec, argv: Sequence[str]) -> None:
    """Add the flags `argv` of train.py to every cell.

    Raises UserError for wrong ones.
    """
    options, _ = parse("matrix.py", "", argv, NoActions)
    for given in options.given.values():
        choice = options.symbols[given.name].choice
        if choice and given.value == "n":
            continue
        name = choice.name if choice else given.name
        raw.base[name] = str(options.value(name)) if choice else given.value
        raw.where[name] = given.where
        if name in raw.axes:
            raw.problems.append(f"{given.where} is an axis of this matrix: leave it out")
        elif name == "SEED":
            raw.problems.append("--seed cannot be given to a matrix: give seeds")
    raw.problems += options.problems


def _further_axes(raw: RawSpec) -> None:
    """Read MATRIX_AXES: "learning-rate=3e-4,6e-4; state-score=fisher"."""
    where = raw.where["AXES"]
    for part in filter(None, map(str.strip, raw.texts.pop("AXES").split(";"))):
        name, equals, values = part.partition("=")
        option = option_name(name.strip())
        if not equals:
            raw.problems.append(f"{where}: {part!r} is not an axis: write option=value,value")
        elif option in LISTS.values():
            symbol = next(symbol for symbol, own in LISTS.items() if own == option)
            raw.problems.append(f"{where}: {name.strip()} has a list of its own: {symbol}")
        elif option in raw.axes:
            raw.problems.append(f"{where}: {name.strip()} is an axis twice")
        else:
            raw.axes[option] = [value.strip() for value in values.split(",")]
            raw.where[option] = where


def option_name(text: str) -> str:
    """Return the option of a typed name: learning-rate is LEARNING_RATE."""
    return text.removeprefix("--").upper().replace("-", "_")


def typed(option: str) -> str:
    """Return an option's name as users type it: LEARNING_RATE is learning-rate."""
    return flag_of(option).removeprefix("--")


def is_float(option: str) -> bool:
    """Return whether an option is a float: its value changes neither time nor memory."""
    return _tree(TRAIN_TREE).is_text(option)


def check_spec(raw: RawSpec) -> MatrixSpec:
    """Return the matrix, every value checked.

    Raises UserError naming every problem.
    """
    problems = list(raw.problems)
    options = _tree(TRAIN_TREE)
    for option, values in raw.axes.items():
        problems += [f"{raw.place(option)}: {text}" for text in _wrong(options, option, values)]
    for option, value in raw.base.items():
        if option not in options.names():
            problems.append(f"{raw.place(option)}: {_no_option(options, option)}")
        # A flag after -- may name the user's code: it is from the command line.
        elif not raw.place(option).startswith("--"):
            problems += [f"{raw.place(option)}: {text}" for text in _own_code(option, value)]
    seeds = _seeds(raw, "SEEDS", problems)
    tuning = _seeds(raw, "TUNING_SEEDS", problems)
    if not seeds and not problems:
        problems.append(f"{raw.place('SEEDS')}: an empty matrix: give seeds (1..5)")
    tune = _tuned(raw, options, problems)
    if tune and not tuning and not problems:
        problems.append(f"{raw.place('TUNING_SEEDS')}: MATRIX_TUNE needs a seed to tune with")
    rates = len(raw.axes.get(RATE, ())) > 1 or bool(tune)
    if rates and (both := sorted(set(seeds) & set(tuning))):
        problems.append(
            f"{raw.place('TUNING_SEEDS')}: seed {both[0]} is reported, too: choose the rate on "
            "other seeds"
        )
    name, keep = raw.texts["NAME"], raw.texts["KEEP"]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        problems.append(
            f"{raw.place('NAME')}: {name!r} is not a name: use letters, digits, dots, dashes and _"
        )
    ways = list(_tree(ROOT_TREE).members("MATRIX_KEEP"))
    if keep not in ways:
        problems.append(f"{raw.place('KEEP')}: {keep!r} is unknown; there are {', '.join(ways)}")
    timeout = raw.texts["TIMEOUT"]
    seconds = None if timeout == "auto" else _number(raw, "TIMEOUT", 0, problems, " or auto")
    jobs = _number(raw, "JOBS", 1, problems)
    wait = _number(raw, "WAIT", 0, problems)
    trials = _number(raw, "TUNE_TRIALS", 2, problems)
    tune_scramble = _number(raw, "TUNE_SCRAMBLE", 0, problems)
    if (controls := raw.texts["CONTROLS"]) not in ("y", "n"):
        problems.append(f"{raw.place('CONTROLS')}: {controls!r} is neither y nor n")
    if problems:
        raise UserError(*problems)
    return MatrixSpec(
        name=name,
        base={o: v for o, v in raw.base.items() if o not in {*raw.axes, *(d.option for d in tune)}},
        axes={option: tuple(dict.fromkeys(values)) for option, values in raw.axes.items()},
        seeds=seeds,
        tuning_seeds=tuning if rates else (),
        jobs=jobs,
        timeout=seconds,
        wait=wait,
        keep=keep,
        tune=tune,
        trials=trials,
        tune_scramble=tune_scramble,
        where={option: raw.where[option] for option in raw.base if option in raw.where},
    )


def _tuned(raw: RawSpec, options: Options, problems: list[str]) -> tuple[Dimension, ...]:
    """Read MATRIX_TUNE: "learning-rate=log:1e-3..1e-2; weight-decay=0.03,0.1,0.3"."""
    where, found = raw.place("TUNE"), dict[str, Dimension]()
    for part in filter(None, map(str.strip, raw.texts["TUNE"].split(";"))):
        name, equals, text = (word.strip() for word in part.partition("="))
        option = option_name(name)
        try:
            if not equals:
                raise ValueError("it has no values: write option=log:LOW..HIGH or option=A,B,C")
            if option in raw.axes or option in LISTS.values() or option == "SEED":
                raise ValueError("an axis, or a list of its own, is not tuned")
            if option not in options.names():
                raise ValueError(_no_option(options, option))
            if option in found:
                raise ValueError("it is tuned twice")
            found[option] = dimension(option, text)
            problems += [f"{where}: {why}" for why in _wrong_listed(options, found[option])]
        except ValueError as error:
            problems.append(f"{where}: {name}: {error}")
    return tuple(found.values())


def _wrong_listed(options: Options, tuned: Dimension) -> Iterable[str]:
    return _wrong(options, tuned.option, tuned.values) if tuned.values else ()


@functools.cache
def _tree(path: Path) -> Options:
    """Return the options of a tree, for looking up names."""
    return Options(path)


def _no_option(options: Options, option: str) -> str:
    near = nearest(typed(option), [typed(name) for name in options.names()])
    return f"no such option: {typed(option)!r}{near}"


def _wrong(options: Options, option: str, values: Sequence[str]) -> Iterable[str]:
    """Yield the problems of an axis that can be found without the rest of a cell."""
    name = typed(option)
    if option == "SEED":
        yield "seed cannot be an axis: give seeds"
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
                yield f"no {name} {value!r}{hint} (there are: {', '.join(known)})"


def _own_code(option: str, value: str) -> Iterable[str]:
    held = {symbol for _, symbol in QUALIFIED.values()}
    if (option in QUALIFIED or option in held) and ":" in value and is_own_code(value):
        yield f"{value} is code of your own, which no file may have executed"


def _seeds(raw: RawSpec, key: str, problems: list[str]) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for word in items(raw.texts[key]):
        match = re.fullmatch(r"([0-9]{1,10})(?:\.\.([0-9]{1,10}))?", word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= _LARGEST_SEED or last - first >= _MOST_SEEDS:
            problems.append(
                f"{raw.place(key)}: {word!r} is not a seed: use whole numbers up to "
                f"{_LARGEST_SEED}, or a range (1..5)"
            )
            continue
        found |= dict.fromkeys(range(first, last + 1))
    return tuple(found)


def _number(raw: RawSpec, key: str, least: int, problems: list[str], other: str = "") -> int:
    text = raw.texts[key]
    if re.fullmatch("[0-9]{1,10}", text) and int(text) >= least:
        return int(text)
    problems.append(f"{raw.place(key)}: {text!r} is not a whole number of at least {least}{other}")
    return least
