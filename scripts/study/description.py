"""What matrix.json says: every cell with its flags, and what they have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpt2.config.errors import Exit, UserError
from scripts.study import machine
from scripts.study.cells import Matrix
from scripts.study.folder import FORMAT, MatrixFolder
from scripts.study.forecast import checkpoint_bytes, dataset, steps
from scripts.study.rates import RULE
from scripts.study.spec import Study, typed
from scripts.study.tuning import RATE


def with_threads(wanted: Study, folder: MatrixFolder) -> Study:
    """Divide the cores among the cells that run at once, unless their threads are given.

    They are part of a result: a matrix that was begun keeps its number, whatever runs at once now.
    """
    if "NUM_THREADS" in (*wanted.base, *wanted.axes):
        return wanted
    if (folder.path / "matrix.json").exists():
        threads = folder.matrix()["threads"]
    else:
        threads = max(1, machine.cores() // wanted.jobs) if wanted.jobs > 1 else None
    if threads is None:
        return wanted
    return replace(wanted, base={**wanted.base, "NUM_THREADS": str(threads)})


def described(matrix: Matrix, gpus: str) -> dict[str, Any]:
    """Return the content of matrix.json. Raises UserError where data are missing."""
    wanted, cells, problems = matrix.study, [], dict[str, None]()
    for cell in matrix.cells:
        config = cell.config
        try:
            tokens, vocabulary = dataset(config)
        except UserError as error:
            problems |= dict.fromkeys(error.messages)
            continue
        cells.append(
            {
                "name": cell.name,
                "label": cell.label,
                "kind": cell.kind,
                "point": {typed(option): value for option, value in cell.point.items()},
                "seed": cell.seed,
                "tuning": cell.tuning,
                "flags": list(cell.flags),
                "batch": [config.train.batch_size, config.train.gradient_accumulation],
                "steps": steps(config, tokens),
                "max_time": config.train.max_time,
                "eval_interval": config.train.eval_interval,
                "checkpoint_bytes": checkpoint_bytes(config, vocabulary),
            }
        )
    if problems:
        raise UserError(*problems, code=Exit.DATA)
    on_cpu = all(cell.config.machine.device == "cpu" for cell in matrix.cells)
    tuning = {
        "axis": RATE,
        "seeds": list(wanted.tuning_seeds),
        "rule": RULE,
    }
    return {
        "format": FORMAT,
        "name": wanted.name,
        "axes": {typed(option): list(values) for option, values in wanted.axes.items()},
        "seeds": list(wanted.seeds),
        "threads": threads_of(wanted),
        "base": {typed(option): value for option, value in wanted.base.items()},
        "tuning": tuning if wanted.tuned else None,
        "left_out": [{"cell": label, "reason": why} for label, why in matrix.left_out],
        "shared": [{"cell": one, "same_as": other} for one, other in matrix.shared],
        "jobs": wanted.jobs,
        "gpus": machine.chosen_gpus(gpus, on_cpu),
        "timeout": wanted.timeout,
        "wait": wanted.wait,
        "keep": wanted.keep,
        "cells": cells,
    }


def threads_of(wanted: Study) -> int | None:
    """Return the threads of each cell, where all have the same number of their own."""
    given = wanted.base.get("NUM_THREADS")
    return int(given) if given else None


def refuse_another(folder: MatrixFolder, made: dict[str, Any]) -> list[str]:
    """Return what is to be said of what the folder holds; raise UserError if it is another matrix.

    Seeds and values may come and go; a cell that was begun stays what it was.
    """
    if not (folder.path / "matrix.json").exists():
        return []
    earlier = {cell["name"]: cell for cell in folder.matrix()["cells"]}
    problems = []
    for cell in made["cells"]:
        before = earlier.pop(cell["name"], cell)
        if before["flags"] != cell["flags"] and folder.run_dir(cell["name"]).exists():
            changed = [w for w in cell["flags"] if w not in before["flags"]]
            changed += [w for w in before["flags"] if w not in cell["flags"]]
            problems.append(f"{cell['name']} differs in {' '.join(changed)}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{folder.path} holds runs of another matrix: {problems[0]}{more}; "
            "choose another --out (or MATRIX_NAME), or put the options back"
        )
    gone = [name for name in earlier if folder.run_dir(name).exists()]
    return [f"{len(gone)} runs in it are no longer in the matrix; they stay"] if gone else []
