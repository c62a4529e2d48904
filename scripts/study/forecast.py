"""Predict the cost of a cell: steps and checkpoint by options, time and memory by a short run."""

from __future__ import annotations

import itertools
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from gpt2.config.errors import Exit, UserError
from gpt2.config.preparation import prepare_command
from gpt2.config.text import last_line, rough_duration
from gpt2.config.typed import Config
from gpt2.files.json import read_object, read_record
from gpt2.run_dir.folder import read_metrics
from scripts.study.command import arguments
from scripts.study.folder import MatrixFolder
from scripts.study.machine import environment_on
from scripts.study.process import CellProcess
from scripts.study.records import CellRecord, Probe, RunCosts
from scripts.study.state import CellState

#: A short run: long enough that its last third is after the pruning schedule.
SHORT_STEPS, SHORT_SECONDS = 20, 60
_SHORT = (
    f"--max-steps {SHORT_STEPS} --max-time {SHORT_SECONDS} --num-epochs 0 --log-interval 1 "
    "--eval-interval 0 --checkpoint-interval 0 --sample-tokens 0"
).split()
#: Bytes of a checkpoint per parameter: the weight and at most three numbers of optimizer state.
_BYTES_PER_PARAMETER = 16
_META = {"splits": {"train": {"tokens": int}}, "tokenizer": {"vocab_size": int}}


def dataset(config: Config) -> tuple[int, int]:
    """Return the number of training tokens and the size of the vocabulary.

    Raises UserError.
    """
    folder = config.data.data_dir / config.data.dataset
    try:
        meta = read_object(folder / "meta.json", _META)
        return meta["splits"]["train"]["tokens"], meta["tokenizer"]["vocab_size"]
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no tokens: {prepare_command(folder, config.data.tokenizer)}",
            code=Exit.DATA,
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/meta.json cannot be read: {error}", code=Exit.DATA) from error


def steps(config: Config, tokens: int) -> int | None:
    """Return the steps of a run; None when only time ends it."""
    training = config.train
    limits = [training.max_steps] if training.max_steps else []
    if training.num_epochs:
        sequences = Fraction(repr(training.num_epochs)) * ((tokens - 1) // config.model.block_size)
        batch = training.batch_size * training.gradient_accumulation
        limits.append(math.ceil(sequences / batch))
    return min(limits) if limits else None


def checkpoint_bytes(config: Config, vocabulary: int) -> int:
    """Return the approximate bytes of a checkpoint."""
    model = config.model
    blocks = model.n_layer * (12 * model.n_embd**2 + 13 * model.n_embd)
    return _BYTES_PER_PARAMETER * (blocks + (vocabulary + model.block_size) * model.n_embd)


def probe(
    folder: MatrixFolder,
    cells: Iterable[CellRecord],
    train: Sequence[str],
    here: Path,
    say: Callable[[str], None],
    gpu: str = "",
    until: float = math.inf,
) -> dict[str, str]:
    """Make a short run of each kind of cell without one; return why any failed.

    They run on `gpu`, in terms of CUDA_VISIBLE_DEVICES, and are stopped at `until`, a time of
    time.monotonic.
    """
    probes, failures = folder.probes(), dict[str, str]()
    for cell in cells:
        kind = cell.kind
        if kind in probes or kind in failures:
            continue
        say(f"a short run of {kind} ...")
        run = folder.path / "probe"
        shutil.rmtree(run, ignore_errors=True)
        flags = arguments(replace(cell, flags=(*cell.flags, *_SHORT)), run)
        start = time.monotonic()
        output = folder.path / "output" / "probe.txt"
        process = CellProcess([*train, *flags], here, output, environment_on(gpu))
        try:
            while (code := process.poll()) is None and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            process.kill()
            while process.poll() is None:  # it writes into the folder that is removed below
                time.sleep(0.01)
        if code == Exit.OK:
            probes[kind] = _measured(run, time.monotonic() - start)
            folder.write_probes(probes)
        elif code is None:
            took = rough_duration(time.monotonic() - start)
            failures[kind] = f"its short run was stopped after {took}"
        else:
            last = last_line(process.tail())
            failures[kind] = f"its short run failed with exit code {code}: {last}"
        shutil.rmtree(run, ignore_errors=True)
    return failures


def _measured(run: Path, wall: float) -> Probe:
    """Return the costs of a short run, from its folder."""
    costs = read_record(run / "summary.json", RunCosts, "make the short run again")
    lines = read_metrics(run)
    train = [line for line in lines if "loss" in line]
    times = [b["elapsed"] - a["elapsed"] for a, b in itertools.pairwise(train)]
    last = times[-max(1, SHORT_STEPS // 3) :] or [costs.seconds]
    evaluation = max(0.0, lines[-1]["time"] - train[-1]["time"])
    return Probe(
        step_seconds=statistics.median(last),
        evaluation_seconds=evaluation,
        other_seconds=max(0.0, wall - costs.seconds - evaluation),
        peak_host_bytes=costs.peak_host_bytes,
        peak_device_bytes=costs.peak_device_bytes,
        peak_process_bytes=costs.peak_process_bytes,
    )


def seconds(
    cells: Iterable[CellRecord], states: Mapping[str, CellState], probes: Mapping[str, Probe]
) -> dict[str, float]:
    """Return the time of a cell of each kind: of finished ones, else by its short run."""
    done: dict[str, list[float]] = {}
    predicted: dict[str, float] = {}
    for cell in cells:
        done.setdefault(cell.kind, []).extend(states[cell.name].seconds)
        if cell.kind in probes and (cell.steps or cell.max_time):
            predicted[cell.kind] = _predicted(cell, probes[cell.kind])
        elif cell.max_time and not cell.steps:
            predicted[cell.kind] = float(cell.max_time)
    predicted |= {kind: statistics.fmean(took) for kind, took in done.items() if took}
    every = [took for all_ in done.values() for took in all_]
    if every:  # unknown kinds: the mean of the others
        predicted = {kind: predicted.get(kind, statistics.fmean(every)) for kind in done}
    return predicted


def _predicted(cell: CellRecord, short: Probe) -> float:
    """Return the seconds of a cell with its start, its evaluations and its end, by a short run."""
    limits = [cell.steps * short.step_seconds] if cell.steps else []
    limits += [float(cell.max_time)] if cell.max_time else []
    training, evaluations = min(limits), 1
    if cell.eval_interval and short.step_seconds:
        steps = cell.steps or math.inf
        evaluations += int((min(steps, training / short.step_seconds) - 1) // cell.eval_interval)
    return short.other_seconds + training + evaluations * short.evaluation_seconds
