"""Expand axes into cells: every possible combination, each as one command line of train.py."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
from scripts.study.controls import DENSE, small_model
from scripts.study.forecast import dataset, steps
from scripts.study.search import draw
from scripts.study.spec import LISTS, RATE, MatrixSpec, is_float, typed

#: Longest cell name before its seed; file systems allow 255 characters in all.
_LONGEST = 160
METHOD, SPARSITY = LISTS["MATRIX_PRUNING_METHODS"], LISTS["MATRIX_SPARSITIES"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the matrix. `axes` are those that apply to it, each with its value."""

    name: str
    axes: dict[str, str]
    seed: int
    flags: tuple[str, ...]  # of train.py, without --run-dir
    tuning: bool  # only used to choose a learning rate
    config: Config = field(repr=False, compare=False)
    #: Axes whose value changes neither time nor memory.
    free: frozenset[str] = field(default=frozenset({SPARSITY, RATE}), repr=False, compare=False)

    @property
    def label(self) -> str:
        """Return the cell's name without its seed: one row of a report."""
        return label_of(self.axes)

    @property
    def kind(self) -> str:
        """Return the kind: cells of one kind take about the same time and memory."""
        return label_of({k: v for k, v in self.axes.items() if k not in self.free})


@dataclass
class Matrix:
    """The cells in running order, and the combinations that are not run."""

    spec: MatrixSpec
    cells: list[Cell] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # combination, reason
    shared: list[tuple[str, str]] = field(default_factory=list)  # combination, the equal cell
    #: Options of all cells that do not apply to some: option -> cell's label -> unmet condition.
    inactive: dict[str, dict[str, str]] = field(default_factory=dict)


def label_of(axes: dict[str, str]) -> str:
    """Return a name for values of the axes: adamw-magnitude-0.9-learning-rate=3e-4."""
    main = [axes[option] for option in LISTS.values() if option in axes]
    rest = [f"{typed(o)}={v}" for o, v in axes.items() if o not in LISTS.values()]
    return "-".join([*main, *rest]) or "base"


def expand(spec: MatrixSpec) -> Matrix:
    """Build and check every cell.

    Raises UserError naming the cells that are wrong.
    """
    matrix = Matrix(spec)
    combinations = _combinations(spec, matrix)
    if spec.controls:
        combinations += _small_dense(spec, combinations, matrix)
    if not combinations:
        raise UserError(
            "an empty matrix: every combination of the axes is left out",
            *(f"{label}: {why}" for label, why in matrix.left_out[:5]),
        )
    if spec.tuned:
        dense = [one for one in combinations if one.axes.get(METHOD) == DENSE]
        tuning = combinations if spec.tune else dense or combinations
        _add(matrix, tuning, spec.tuning_seeds, tuning=True)
    _add(matrix, combinations, spec.seeds, tuning=False)
    return matrix


@dataclass(frozen=True)
class _Combination:
    """Values of the axes that apply, and train.py's configuration for them.

    flags: of train.py. full: the whole configuration as text, empty where there are problems.
    """

    axes: dict[str, str]
    flags: list[str]
    full: str = ""
    problems: tuple[str, ...] = ()


def _add(
    matrix: Matrix, combinations: Sequence[_Combination], seeds: Sequence[int], tuning: bool
) -> None:
    """Add cells, seeds in the outer loop: half a matrix has every cell, with half of the seeds."""
    taken = {cell.name for cell in matrix.cells}
    free = frozenset({SPARSITY, RATE, *(d.option for d in matrix.spec.tune if is_float(d.option))})
    for seed in seeds:
        for combination in combinations:
            argv = [*combination.flags, "--seed", str(seed)]
            stem = _stem(label_of(combination.axes))
            name = f"{stem}-seed{seed}"
            count = itertools.count(2)
            while name in taken:
                name = f"{stem}-{next(count)}-seed{seed}"
            taken.add(name)
            config = bind(parse("train.py", "", argv, TrainActions)[0])
            matrix.cells.append(
                Cell(
                    name=name,
                    axes=combination.axes,
                    seed=seed,
                    flags=tuple(argv),
                    tuning=tuning,
                    config=config,
                    free=free,
                )
            )


def _stem(label: str) -> str:
    """Return a label as part of a file name: safe characters, limited length."""
    stem = re.sub(r"[^A-Za-z0-9._=+-]", "_", label)
    if len(stem) > _LONGEST:
        stem = f"{stem[:_LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:12]}"
    return stem


def _combinations(spec: MatrixSpec, matrix: Matrix) -> list[_Combination]:
    """Return every possible combination, each once."""
    distinct: dict[str, _Combination] = {}  # by full configuration: equal ones are one
    refused: list[_Combination] = []
    good: set[tuple[str, str]] = set()
    active: set[str] = set()
    points = draw(len(spec.tune), spec.trials, spec.tune_scramble) if spec.tune else [()]
    for values in itertools.product(*spec.axes.values()):
        chosen = dict(zip(spec.axes, values, strict=True))
        for combination in _trials(spec, chosen, points, matrix):
            active |= combination.axes.keys()
            if combination.problems:
                if all(combination.axes != earlier.axes for earlier in refused):
                    refused.append(combination)
                continue
            good |= set(combination.axes.items())
            same = distinct.setdefault(combination.full, combination)
            if same.axes != combination.axes:
                matrix.shared.append((label_of(combination.axes), label_of(same.axes)))
    _refuse_what_no_cell_takes(spec, refused, good, active)
    matrix.left_out = [(label_of(one.axes), "; ".join(one.problems)) for one in refused]
    return list(distinct.values())


def _small_dense(
    spec: MatrixSpec, rows: Sequence[_Combination], matrix: Matrix
) -> list[_Combination]:
    """Return the small dense model of every pruned row, each once; a row may have none that fits.

    Raises UserError where the data are missing: their vocabulary is part of the model.
    """
    found: dict[str, _Combination] = {}
    points = draw(len(spec.tune), spec.trials, spec.tune_scramble) if spec.tune else [()]
    tuned = {dimension.option for dimension in spec.tune}
    seen = set()
    for row in rows:
        config = bind(parse("train.py", "", row.flags, TrainActions)[0])
        if config.prune is None:
            continue
        tokens, vocabulary = dataset(config)
        model = small_model(config, steps(config, tokens), vocabulary)
        axes = {option: value for option, value in row.axes.items() if option not in tuned}
        label = label_of(axes)
        if model is None and label not in seen:
            why = "no narrower model has about as many parameters as its run on average"
            matrix.left_out.append((f"small dense model of {label}", why))
        if model is None or label in seen:
            continue
        seen.add(label)
        width = {"N_EMBD": model["N_EMBD"]}
        shape = {**spec.base, **({} if config.model.model == "custom" else model)}
        narrow = replace(spec, base={o: v for o, v in shape.items() if o not in width})
        for trial in _trials(narrow, {**axes, METHOD: DENSE, **width}, points, matrix):
            if trial.problems:
                matrix.left_out.append((label_of(trial.axes), "; ".join(trial.problems)))
            else:
                found.setdefault(trial.full, trial)
    return list(found.values())


def _trials(
    spec: MatrixSpec,
    chosen: dict[str, str],
    points: Sequence[tuple[float, ...]],
    matrix: Matrix,
) -> list[_Combination]:
    """Return the trials of one combination of axes; only itself where nothing is tuned.

    Raises UserError for a tuned value that the combination refuses: it would cost a trial.
    """
    if not spec.tune:
        return [_combine(spec, chosen, matrix)]
    row = options_of({**spec.base, **chosen})
    trials = []
    for point in points:
        try:
            values = {
                tuned.option: tuned.value(share, row.value(tuned.option))
                for tuned, share in zip(spec.tune, point, strict=True)
            }
        except ValueError as error:
            raise UserError(f"MATRIX_TUNE: {label_of(chosen)}: {error}; give a range") from error
        trials.append(_combine(spec, {**chosen, **values}, matrix))
    wrong = [trial for trial in trials if trial.problems]
    if not wrong:
        return trials
    plain = _combine(spec, chosen, matrix)
    if len(wrong) == len(trials) and plain.problems:
        return [plain]
    raise UserError(f"MATRIX_TUNE: {label_of(wrong[0].axes)}: {wrong[0].problems[0]}")


def _combine(spec: MatrixSpec, chosen: dict[str, str], matrix: Matrix) -> _Combination:
    """Return one combination: the options of all cells, and the values `chosen` of the axes."""
    given = {**spec.base, **chosen}
    options = options_of(given)
    gone: list[str] = []
    # Drop inactive options: a sparsity without pruning, another optimizer's option. One at a time,
    # since each can make others inactive, or active again.
    while inactive := next((name for name in reversed(given) if options.unmet(name)), None):
        del given[inactive]
        gone.append(inactive)
        options = options_of(given)
    axes = {name: value for name, value in given.items() if name in chosen}
    for name in gone:
        if name not in chosen:
            needs = " and ".join(options.unmet(name))
            matrix.inactive.setdefault(name, {})[label_of(axes)] = needs
    flags = [
        word for name, value in given.items() for word in words(name, value, options.is_bool(name))
    ]
    try:
        parsed, _ = parse("train.py", "", flags, TrainActions)
        bind(parsed)
    except UserError as error:
        return _Combination(axes, flags, problems=error.messages)
    return _Combination(axes, flags, parsed.full_text())


def options_of(given: dict[str, str]) -> Options:
    """Return the options of train.py with these values, as in flags."""
    options = Options(TRAIN_TREE)
    for name, value in given.items():
        options.give(name, value, flag_of(name))
    return options


def _refuse_what_no_cell_takes(
    spec: MatrixSpec,
    refused: Sequence[_Combination],
    good: set[tuple[str, str]],
    active: set[str],
) -> None:
    """Raise UserError for a value that is refused in every cell, and an axis without effect.

    A combination of values that are each valid elsewhere is left out.
    """
    problems = [
        f"MATRIX_TUNE: {typed(tuned.option)} has no effect in any cell"
        for tuned in spec.tune
        if tuned.option not in active
    ]
    for option, values in spec.axes.items():
        if option not in active:
            if option == SPARSITY:  # no pruning at all: a matrix of dense runs
                continue
            unmet = options_of({**spec.base}).unmet(option)
            needs = f": it needs {' and '.join(unmet)}" if unmet else ""
            problems.append(f"the axis {typed(option)} has no effect in any cell{needs}")
            continue
        for value in values:
            if (option, value) not in good:
                cases = [one for one in refused if one.axes.get(option) == value]
                for case in cases[:1]:
                    about = [text for text in case.problems if text.startswith(flag_of(option))]
                    problems.append(f"cell {label_of(case.axes)}: {(about or case.problems)[0]}")
    if problems:
        raise UserError(*dict.fromkeys(problems))


def needs_train_to_check(config: Config) -> bool:
    """Return whether only train.py can check these options, since that needs torch."""
    return plugins.defines(PLUGIN_PACKAGES["OPTIMIZER"], config.optim.optimizer, "check")
