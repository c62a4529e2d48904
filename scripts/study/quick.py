"""The quick answer: a matrix of few seeds whose runs are as long as a given time allows."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.text import counted, duration, joined, rough_duration
from scripts.study.cells import METHOD, Matrix, expand
from scripts.study.description import with_threads
from scripts.study.folder import MatrixFolder
from scripts.study.pinned import for_one_optimizer
from scripts.study.records import CellRecord, MatrixRecord, Probe
from scripts.study.spec import LISTS, RawSpec, check_spec

#: Share of the time that is planned; the rest is for the report, and in case the machine slows
#: down.
_PLANNED = 0.85
#: Evaluations during a run, lines of metrics, and the fewest steps that can show anything.
_EVALUATIONS, _LOGGED, _LEAST = 4, 60, 50
#: Seconds that the shortest run takes at least, and that one takes on an ordinary machine: a
#: process starts, evaluates and saves.
_SHORTEST, _ORDINARY = 3.0, 12.0
#: Longest part of a folder's name made of values.
_LONGEST = 60
#: The variable of make that sets the values of an axis.
VARIABLES = {
    "OPTIMIZER": "OPTIMIZERS",
    "PRUNING_METHOD": "METHODS",
    "TARGET_SPARSITY": "SPARSITIES",
}


@dataclass(frozen=True)
class Quick:
    """The question: the values of each axis (of VARIABLES), seeds, and seconds for all of it."""

    axes: Mapping[str, list[str]]
    seeds: int
    seconds: float


def narrow(raw: RawSpec, asked: Quick) -> list[str]:
    """Turn `raw`, a matrix of a .config, into that of the question; return notes on omissions.

    Raises UserError where there is nothing to compare.
    """
    axes = {option: values for option, values in asked.axes.items() if values}
    if not axes:
        raise UserError(
            'nothing to compare: OPTIMIZERS="adamw muon", METHODS="none magnitude state" or '
            'SPARSITIES="0.5 0.9" is missing'
        )
    pruned = axes.get(METHOD) or [raw.base.get(METHOD, "none")]
    if "TARGET_SPARSITY" in axes and set(pruned) == {"none"}:
        raise UserError('SPARSITIES= has no effect: nothing is pruned; METHODS="magnitude" prunes')
    for option, values in axes.items():
        if raw.where.get(option, "").startswith("--"):
            raise UserError(
                f"{flag_of(option)} and {VARIABLES[option]}= set the same option: leave one out"
            )
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise UserError(f"{VARIABLES[option]}: {twice[0]} is named twice")
    raw.axes = {option: axes[option] for option in LISTS.values() if option in axes}
    for option in raw.axes:
        raw.base.pop(option, None)
        raw.where[option] = VARIABLES[option]
    raw.texts |= {"SEEDS": f"1..{asked.seeds}", "TUNE": ""}
    raw.problems = [text for text in raw.problems if "axis of this matrix" not in text]
    dropped = [
        option
        for option in for_one_optimizer(raw.base, axes.get("OPTIMIZER", ()))
        if not raw.where.get(option, "--").startswith("--")
    ]
    said = joined([f"{flag_of(option)} {raw.base.pop(option)}" for option in dropped] or [""])
    asked_for = [raw.axes, sorted(raw.base.items()), asked.seeds, asked.seconds]
    digest = hashlib.sha256(json.dumps(asked_for).encode()).hexdigest()[:6]
    words = re.sub("[^A-Za-z0-9._-]", "_", "-".join(v for some in raw.axes.values() for v in some))
    raw.texts["NAME"] = f"compare-{words[:_LONGEST]}-{digest}"
    if not dropped:
        return []
    return [
        f"left out of the configuration: {said}, chosen for one optimizer; each uses its own "
        "defaults, and flags in ARGS apply to all"
    ]


def of_length(raw: RawSpec, steps: int, folder: MatrixFolder) -> Matrix:
    """Return the matrix with runs of `steps` steps.

    Raises UserError.
    """
    lengths = {
        "MAX_STEPS": steps,
        "EVAL_INTERVAL": math.ceil(steps / _EVALUATIONS),
        "LOG_INTERVAL": max(1, steps // _LOGGED),
        "CHECKPOINT_INTERVAL": 0,
        "SAMPLE_TOKENS": 0,
    }
    for option in ("MAX_TIME", "NUM_EPOCHS"):
        raw.base.pop(option, None)
    raw.base |= {option: str(value) for option, value in lengths.items()}
    matrix = expand(with_threads(check_spec(raw), folder))
    if len({cell.label for cell in matrix.cells}) < 2:
        left = "".join(f"; {label} is left out: {why}" for label, why in matrix.left_out[:1])
        raise UserError(f"nothing to compare: every run is {matrix.cells[0].label}{left}")
    return matrix


def is_quick(name: str) -> bool:
    """Return whether 'make compare' made the matrix of this name."""
    return re.fullmatch("compare-.*-[0-9a-f]{6}", name) is not None


def continuation(name: str) -> str:
    """Return what to say of a matrix of this name that nobody runs: what continues it."""
    if is_quick(name):
        return "not running; the same 'make compare' continues it"
    return "not running; 'make test-matrix' continues it"


def refuse_at_once(record: MatrixRecord, asked: Quick) -> None:
    """Raise UserError where the time is too short even for the starts of all processes."""
    kinds, runs = len({cell.kind for cell in record.cells}), len(record.cells)
    processes = kinds + runs / record.slots
    if processes * _SHORTEST > _PLANNED * asked.seconds:
        raise UserError(
            f"TIME: {duration(asked.seconds)} is too short for {counted(runs, 'run')}: "
            f"starting, evaluating and saving take {_SHORTEST * processes:.0f} s at least; give "
            f"TIME={math.ceil(processes * _ORDINARY / 60) + 1}m, or fewer SEEDS or rows"
        )


def end_of(asked: Quick, begun: float) -> float:
    """Return when all runs are to be over, by time.monotonic, as `begun` is."""
    return begun + _PLANNED * asked.seconds


def too_slow_to_measure(record: MatrixRecord, kind: str, asked: Quick, took: float) -> UserError:
    """Return the error where the time is up before a short run is over, which took so long."""
    processes = len({cell.kind for cell in record.cells}) + len(record.cells) / record.slots
    return UserError(
        f"TIME: {duration(asked.seconds)} is too short: the short run of {kind} was stopped "
        f"after {rough_duration(took)}, before its evaluation was over; give at least "
        f"TIME={math.ceil(processes * took / _PLANNED / 60) + 1}m, or a smaller --model"
    )


def refuse_when_known(
    record: MatrixRecord, probes: Mapping[str, Probe], asked: Quick, begun: float
) -> None:
    """Raise UserError once the rows that are measured leave no time for the others.

    The time it names counts the others like the slowest that is measured.
    """
    known = [cell for cell in record.cells if cell.kind in probes]
    spent = time.monotonic() - begun
    if not known or spent + _shortest(known, probes, record.slots) < _PLANNED * asked.seconds:
        return
    slowest = max(probes.values(), key=lambda probe: _run_seconds(probe, _LEAST))
    every = {cell.kind: probes.get(cell.kind, slowest) for cell in record.cells}
    share = len(every) / len({cell.kind for cell in known})
    needed = share * spent + _shortest(record.cells, every, record.slots)
    raise _too_short(len(record.cells), asked, _run_seconds(slowest, _LEAST), needed)


def _run_seconds(probe: Probe, steps: int) -> float:
    """Return how long a run of that many steps takes, from the start of its process to its end."""
    evaluations = _EVALUATIONS * probe.evaluation_seconds
    return probe.other_seconds + evaluations + steps * probe.step_seconds


def _shortest(cells: Iterable[CellRecord], probes: Mapping[str, Probe], slots: int) -> float:
    """Return the seconds that all cells take with the fewest steps that say anything."""
    return sum(_run_seconds(probes[cell.kind], _LEAST) for cell in cells) / slots


def _too_short(runs: int, asked: Quick, one: float, needed: float) -> UserError:
    return UserError(
        f"TIME: {duration(asked.seconds)} is too short for {runs} runs of at least {_LEAST} "
        f"steps: one takes {rough_duration(one)} with its start and its evaluations; "
        f"TIME={math.ceil(needed / _PLANNED / 60) + 1}m is enough, fewer SEEDS or rows take less"
    )


def fitting_steps(
    record: MatrixRecord,
    probes: Mapping[str, Probe],
    asked: Quick,
    begun: float,
    longest: Iterable[int | None],
) -> tuple[int, float]:
    """Return the steps of every run, and the seconds of all runs predicted from the short runs.

    begun: when the command started, by time.monotonic. longest: the steps that the runs would have
    without a limit. Raises UserError, with a sufficient time, where too few steps fit.
    """
    cells, slots = record.cells, record.slots
    per_step = sum(probes[cell.kind].step_seconds for cell in cells) / slots
    fixed = sum(_run_seconds(probes[cell.kind], 0) for cell in cells) / slots
    spent = time.monotonic() - begun
    steps = int((_PLANNED * asked.seconds - spent - fixed) / per_step)
    if steps < _LEAST:
        slowest = max(_run_seconds(probes[cell.kind], _LEAST) for cell in cells)
        raise _too_short(len(cells), asked, slowest, spent + _shortest(cells, probes, slots))
    steps = min([_round(steps), *(most for most in longest if most)])
    return steps, fixed + steps * per_step


def _round(steps: int) -> int:
    """Return a number rounded down to two digits, for people."""
    size: int = 10 ** max(0, len(str(steps)) - 2)
    return steps // size * size
