"""Axes -> cells: every combination that can be, each as one command line of train.py."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpt2.config import plugins
from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import TRAIN_TREE
from gpt2.config.typed import PLUGIN_PACKAGES, Config
from scripts.flags import words
from scripts.study.spec import LISTS, RATE, Study, typed

#: Letters of a cell's name before its seed; file systems have 255 for all of it.
_LONGEST = 160
METHOD, SPARSITY = LISTS["MATRIX_PRUNING_METHODS"], LISTS["MATRIX_SPARSITIES"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the matrix. `point` holds the axes that play a part in it, with their values."""

    name: str
    point: dict[str, str]
    seed: int
    flags: tuple[str, ...]  # of train.py, without --run-dir
    tuning: bool  # only there to choose a learning rate by
    config: Config = field(repr=False, compare=False)

    @property
    def label(self) -> str:
        """The cell without its seed: what a report has a row for."""
        return label_of(self.point)

    @property
    def kind(self) -> str:
        """Cells of one kind take about the same time and memory."""
        point = {k: v for k, v in self.point.items() if k not in (SPARSITY, RATE)}
        return label_of(point)


@dataclass
class Matrix:
    """The cells in the order in which they run, and what is said of the others."""

    study: Study
    cells: list[Cell] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # combination, why
    shared: list[tuple[str, str]] = field(default_factory=list)  # combination, the equal cell
    #: Options of all cells that play no part in some: label of the cell -> what they need.
    void: dict[str, dict[str, str]] = field(default_factory=dict)


def label_of(point: dict[str, str]) -> str:
    """Return a name for a point of the axes: adamw-magnitude-0.9-learning-rate=3e-4."""
    main = [point[option] for option in LISTS.values() if option in point]
    rest = [f"{typed(o)}={v}" for o, v in point.items() if o not in LISTS.values()]
    return "-".join([*main, *rest]) or "base"


def expand(study: Study) -> Matrix:
    """Make and check every cell. Raises UserError naming the cells that are wrong."""
    matrix = Matrix(study)
    points = _points(study, matrix)
    if not points:
        raise UserError(
            "an empty matrix: every combination of the axes is left out",
            *(f"{label}: {why}" for label, why in matrix.left_out[:5]),
        )
    if study.tuned:
        dense = [found for found in points if found[0].get(METHOD) == "none"] or points
        _add(matrix, dense, study.tuning_seeds, tuning=True)
    _add(matrix, points, study.seeds, tuning=False)
    return matrix


Point = tuple[dict[str, str], list[str]]


def _add(matrix: Matrix, points: Sequence[Point], seeds: Sequence[int], tuning: bool) -> None:
    """Add the cells of `points`, seeds outermost: half a matrix is every cell, half as sure."""
    taken = {cell.name for cell in matrix.cells}
    for seed in seeds:
        for point, flags in points:
            argv = [*flags, "--seed", str(seed)]
            stem = _stem(label_of(point))
            name = f"{stem}-seed{seed}"
            count = itertools.count(2)
            while name in taken:
                name = f"{stem}-{next(count)}-seed{seed}"
            taken.add(name)
            config = bind(parse("train.py", "", argv, TrainActions)[0])
            matrix.cells.append(
                Cell(
                    name=name,
                    point=point,
                    seed=seed,
                    flags=tuple(argv),
                    tuning=tuning,
                    config=config,
                )
            )


def _stem(label: str) -> str:
    """Return a label as a part of a file's name: no other letters, and not too long."""
    stem = re.sub(r"[^A-Za-z0-9._=+-]", "_", label)
    if len(stem) > _LONGEST:
        stem = f"{stem[:_LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:12]}"
    return stem


def _points(study: Study, matrix: Matrix) -> list[Point]:
    """Return every combination that can be, each once, with its flags."""
    found: dict[str, Point] = {}  # by the full configuration, so that equal ones are one
    refused: list[tuple[dict[str, str], list[str]]] = []
    good: set[tuple[str, str]] = set()
    played: set[str] = set()
    for values in itertools.product(*study.axes.values()):
        asked = dict(zip(study.axes, values, strict=True))
        point, flags, text, problems = _combine(study, asked, matrix)
        played |= point.keys()
        if problems:
            if all(point != earlier for earlier, _ in refused):
                refused.append((point, problems))
            continue
        good |= set(point.items())
        if text not in found:
            found[text] = (point, flags)
        elif (same := found[text][0]) != point:
            matrix.shared.append((label_of(point), label_of(same)))
    _refuse_what_no_cell_takes(study, refused, good, played)
    matrix.left_out = [(label_of(point), "; ".join(problems)) for point, problems in refused]
    return list(found.values())


def _combine(
    study: Study, asked: dict[str, str], matrix: Matrix
) -> tuple[dict[str, str], list[str], str, list[str]]:
    """Return point, flags and full configuration of one combination, and what is wrong with it."""
    given = {**study.base, **asked}
    options = _with(given)
    gone: list[str] = []
    # What plays no part here goes: a sparsity where nothing is pruned, another optimizer's option.
    # One at a time, since each can make the next void, or good again.
    while void := next((name for name in reversed(given) if options.unmet(name)), None):
        del given[void]
        gone.append(void)
        options = _with(given)
    point = {name: value for name, value in given.items() if name in asked}
    for name in gone:
        if name not in asked:
            matrix.void.setdefault(name, {})[label_of(point)] = " and ".join(options.unmet(name))
    flags = [
        word for name, value in given.items() for word in words(name, value, options.is_bool(name))
    ]
    try:
        parsed, _ = parse("train.py", "", flags, TrainActions)
        bind(parsed)
    except UserError as error:
        return point, flags, "", list(error.messages)
    return point, flags, parsed.full_text(), []


def _with(given: dict[str, str]) -> Options:
    options = Options(TRAIN_TREE)
    for name, value in given.items():
        options.give(name, value, flag_of(name))
    return options


def _refuse_what_no_cell_takes(
    study: Study,
    refused: list[tuple[dict[str, str], list[str]]],
    good: set[tuple[str, str]],
    played: set[str],
) -> None:
    """Raise UserError for a value that is wrong wherever it stands, and an axis without effect.

    A combination of values that are each good elsewhere makes no sense, and is left out.
    """
    problems: list[str] = []
    for option, values in study.axes.items():
        if option not in played:
            if option == SPARSITY:  # nothing is pruned at all: a matrix of dense runs
                continue
            unmet = _with({**study.base}).unmet(option)
            needs = f": it needs {' and '.join(unmet)}" if unmet else ""
            problems.append(f"the axis {typed(option)} has no effect in any cell{needs}")
            continue
        for value in values:
            if (option, value) not in good:
                cases = [(p, why) for p, why in refused if p.get(option) == value]
                for point, why in cases[:1]:
                    about = [text for text in why if text.startswith(flag_of(option))]
                    problems.append(f"cell {label_of(point)}: {(about or why)[0]}")
    if problems:
        raise UserError(*dict.fromkeys(problems))


def needs_a_look(config: Config) -> bool:
    """Whether only train.py itself can check these options, as it loads torch for that."""
    return plugins.defines(PLUGIN_PACKAGES["OPTIMIZER"], config.optim.optimizer, "check")
