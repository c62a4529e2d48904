"""Read a matrix from .config or YAML, and describe it as in matrix.json."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpt2.config.effects import notes
from gpt2.config.errors import Exit, UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY, ROOT_TREE
from gpt2.config.typed import Identity
from gpt2.machine.processor import cores
from scripts.study import machine
from scripts.study.cells import METHOD, Cell, Matrix
from scripts.study.controls import DENSE, lacking
from scripts.study.folder import MatrixFolder
from scripts.study.forecast import checkpoint_bytes, dataset, steps
from scripts.study.rates import RULE, TRIALS_RULE
from scripts.study.records import (
    FORMAT,
    CellRecord,
    LeftOut,
    MatrixRecord,
    SharedCell,
    TuningRecord,
)
from scripts.study.search import SAMPLER
from scripts.study.spec import MatrixSpec, RawSpec, from_config, from_options, typed
from scripts.study.spec_yaml import from_yaml
from scripts.study.tuning import RATE


def read_spec(spec: Path | None, config: Path | None, begun: bool) -> RawSpec:
    """Return the matrix of the YAML file `spec`, else of `config`, else of .config.

    `begun`: its folder suffices, so that neither is needed. Raises UserError where there is none.
    """
    if spec and config:
        raise UserError("--spec names its own config: leave --config out")
    if spec:
        return from_yaml(spec)
    path = config or REPOSITORY / ".config"
    if path.exists() or config:
        return from_config(path)
    if begun:
        return from_options(Options(ROOT_TREE))
    raise UserError(
        "no .config: 'make defconfig-gpt2-shakespeare-matrix-cpu' makes that of a "
        "matrix for a CPU, gpt2-shakespeare-matrix for a GPU; or give --spec"
    )


def with_threads(spec: MatrixSpec, folder: MatrixFolder, of_task: int | None = None) -> MatrixSpec:
    """Divide the cores among the cells that run at once, unless their threads are given.

    Threads are part of a result: a matrix that was begun keeps its number. `of_task`: the cores of
    a task of a cluster, 0 where the site decides; None on this machine. Raises UserError where they
    are unknown and must be divided.
    """
    if "NUM_THREADS" in (*spec.base, *spec.axes):
        return spec
    if (folder.path / "matrix.json").exists():
        threads = folder.matrix().threads
    elif of_task:
        threads = max(1, of_task // spec.jobs)
    elif of_task == 0 and spec.jobs > 1:
        raise UserError(
            f"JOBS={spec.jobs}: the cells of a task divide its cores, which are part of a result: "
            "give MATRIX_SLURM_CPUS, or ARGS='--num-threads N'"
        )
    else:
        threads = max(1, cores() // spec.jobs) if spec.jobs > 1 else None
    if threads is None:
        return spec
    return replace(spec, base={**spec.base, "NUM_THREADS": str(threads)})


def with_controls(spec: MatrixSpec, raw: RawSpec, folder: MatrixFolder) -> MatrixSpec:
    """Add the controls of pruning, unless switched off, or the matrix began without them."""
    begun = (folder.path / "matrix.json").exists()
    if raw.texts["CONTROLS"] != "y" or (begun and not folder.matrix().controls):
        return spec
    methods = spec.axes.get(METHOD, ())
    if not any(method != DENSE for method in methods):
        return spec
    added = lacking(methods)
    first = (DENSE,) if DENSE in added else ()
    methods = (*first, *methods, *(method for method in added if method != DENSE))
    return replace(spec, axes={**spec.axes, METHOD: methods}, added=added, controls=True)


def describe(matrix: Matrix, gpus: str, here: bool = True) -> MatrixRecord:
    """Return the content of matrix.json.

    `here`: it runs on this machine, whose GPUs are looked up; on a cluster, tasks have their own.
    Raises UserError where data are missing.
    """
    spec, cells, problems = matrix.spec, list[CellRecord](), dict[str, None]()
    for cell in matrix.cells:
        try:
            cells.append(_described(cell))
        except UserError as error:
            problems |= dict.fromkeys(error.messages)
    if problems:
        raise UserError(*problems, code=Exit.DATA)
    numbers = [number for cell in matrix.cells if (number := cell.config.machine.device_index)]
    if numbers:
        raise UserError(
            f"--device cuda:{numbers[0]}: each cell of a matrix is given a GPU of its own: use "
            f"--device cuda and GPUS={numbers[0]}"
        )
    on_cpu = all(cell.config.machine.device == "cpu" for cell in matrix.cells)
    tuning = TuningRecord(axis=RATE, seeds=spec.tuning_seeds, rule=RULE)
    if spec.tune:
        tuning = TuningRecord(
            axis=", ".join(typed(tuned.option) for tuned in spec.tune),
            seeds=spec.tuning_seeds,
            rule=TRIALS_RULE,
            space={typed(tuned.option): tuned.text for tuned in spec.tune},
            trials=spec.trials,
            sampler=SAMPLER,
            sampler_seed=spec.tune_scramble,
        )
    threads = spec.base.get("NUM_THREADS")
    return MatrixRecord(
        format=FORMAT,
        name=spec.name,
        axes={typed(option): values for option, values in spec.axes.items()},
        seeds=spec.seeds,
        threads=int(threads) if threads else None,
        base={typed(option): value for option, value in spec.base.items()},
        tuning=tuning if spec.tuned else None,
        left_out=tuple(LeftOut(cell=label, reason=why) for label, why in matrix.left_out),
        shared=tuple(SharedCell(cell=one, same_as=other) for one, other in matrix.shared),
        jobs=spec.jobs,
        gpus=tuple(machine.chosen_gpus(gpus, on_cpu)) if here else (),
        timeout=spec.timeout,
        wait=spec.wait,
        keep=spec.keep,
        cells=tuple(cells),
        controls=spec.controls,
    )


def _described(cell: Cell) -> CellRecord:
    """Return a cell as in matrix.json.

    Raises UserError where its data are missing.
    """
    config = cell.config
    tokens, vocabulary = dataset(config)
    return CellRecord(
        name=cell.name,
        label=cell.label,
        kind=cell.kind,
        axes={typed(option): value for option, value in cell.axes.items()},
        seed=cell.seed,
        tuning=cell.tuning,
        flags=cell.flags,
        batch=(config.train.batch_size, config.train.gradient_accumulation),
        steps=steps(config, tokens),
        max_time=config.train.max_time,
        eval_interval=config.train.eval_interval,
        checkpoint_bytes=checkpoint_bytes(config, vocabulary),
    )


def refuse_another(folder: MatrixFolder, record: MatrixRecord) -> list[str]:
    """Return notes on the folder's content; raise UserError if it is another matrix.

    Seeds and values may be added and removed; a cell that was begun must not change.
    """
    if not (folder.path / "matrix.json").exists():
        return []
    earlier = {cell.name: cell for cell in folder.matrix().cells}
    problems = []
    for cell in record.cells:
        before = earlier.pop(cell.name, cell)
        now, then = _without_paths(cell.flags), _without_paths(before.flags)
        if now != then and folder.run_dir(cell.name).exists():
            problems.append(f"{cell.name} differs in {_difference(now, then)}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{folder.path} holds runs of another matrix: {problems[0]}{more}; "
            "choose another --out (or MATRIX_NAME), or put the options back"
        )
    gone = [name for name in earlier if folder.run_dir(name).exists()]
    return [f"{len(gone)} runs in it are no longer in the matrix; they stay"] if gone else []


def _without_paths(flags: Sequence[str]) -> list[str]:
    """Return flags without paths of data, whose content is compared by its hash."""
    paths = {
        flag_of(name) for name, note in notes().items() if isinstance(note, Identity) and note.path
    }
    pairs = itertools.pairwise(["", *flags])
    return [word for before, word in pairs if word not in paths and before not in paths]


def _difference(flags: Sequence[str], before: Sequence[str]) -> str:
    """Return the words in which two lists of flags differ, the new ones first."""
    changed = [word for word in flags if word not in before]
    return " ".join([*changed, *(word for word in before if word not in flags)])
