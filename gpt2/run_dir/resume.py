"""Choose the run directory of a session: a new one, or one to resume."""

from __future__ import annotations

import dataclasses
import math
import secrets
import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2.config import interpreter, plugins
from gpt2.config.actions import LATEST, TrainActions
from gpt2.config.bind import bind, own_values
from gpt2.config.effects import free_at_resume, product_at_resume
from gpt2.config.errors import UserError
from gpt2.config.names import flag_of, value_text
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY
from gpt2.config.text import counted
from gpt2.config.typed import PATHS, PLUGIN_PACKAGES, Config, TrainConfig
from gpt2.data.meta import Meta
from gpt2.machine.ranks import DistributedContext
from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import FollowedFolder, RunFolder, new_folder, read_json, unfinished
from gpt2.run_dir.latest import NAME, meant
from gpt2.run_dir.tracking import Tracking

RUNS = REPOSITORY / "runs"
#: Seconds that a network file system may take to show a new file to other hosts.
_SEEN_WITHIN = 10.0


def open_folder(config: Config, actions: TrainActions, data: Meta, device: str) -> RunFolder:
    """Open a new run directory, or the one to resume.

    Raises UserError.
    """
    if actions.run_dir is None:
        if actions.resume:
            raise UserError("--resume needs --run-dir DIR: the run to resume")
        name = config.train.name or f"{config.model.model}-{config.data.dataset}-{device}"
        return RunFolder(new_folder(RUNS, name))
    path = actions.run_dir.absolute()
    path = (meant(path) if path == RUNS / NAME else path).resolve()  # resolves runs/latest
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if occupied and actions.resume is False:
        raise UserError(f"--no-resume: {path} is not empty; choose another --run-dir")
    if actions.resume and not (path / "config").exists():
        raise UserError(f"--resume: {path} holds no run to resume")
    if occupied and not (path / ".lock").exists():
        raise UserError(
            f"--run-dir {path} exists and is not a run of this program; choose another folder"
        )
    folder = RunFolder(path)
    try:
        if folder.finished:
            raise UserError(
                f"--run-dir {path}: this run is finished; to train its weights further, choose"
                f" another folder and give --init-from {path}"
            )
        if folder.started:
            _refuse_other_options(path, config, data)
    except UserError:
        folder.close()
        raise
    return folder


def open_for_all(
    config: Config, actions: TrainActions, data: Meta, device: str, ranks: DistributedContext
) -> RunFolder:
    """Open the run directory on the first rank, which writes it; the others get its path.

    The tracker is imported before, on all ranks, so that a missing package leaves no folder.
    """
    package, name = PLUGIN_PACKAGES["TRACKER"], config.train.tracker
    tracker = plugins.load(package, name)
    if not ranks.first:
        told, mark = ranks.gather(None)[0]
        _refuse_unshared(Path(told), mark, ranks)
        return FollowedFolder(Path(told))
    folder = open_folder(config, actions, data, device)
    if plugins.defines(package, name, "open"):
        told = {k: v if isinstance(v, int | float) else str(v) for k, v in _flat(config).items()}
        warn = Console(folder.log).warn
        folder.tracking = Tracking(tracker.open, folder.path, told, config.train.options, warn)
    if ranks.world_size == 1:
        return folder
    mark = f".tmp-ranks-{secrets.token_hex(8)}"
    (folder.path / mark).touch()
    ranks.gather((str(folder.path), mark))
    try:
        _refuse_unshared(folder.path, mark, ranks)
    except UserError:
        folder.close()
        raise
    finally:
        (folder.path / mark).unlink(missing_ok=True)
    return folder


def _refuse_unshared(path: Path, mark: str, ranks: DistributedContext) -> None:
    """Raise UserError on all ranks where one does not see `mark`, a file of the first rank.

    All ranks read checkpoints to resume, and sharded ranks write their shards.
    """
    deadline = time.monotonic() + _SEEN_WITHIN
    while not (there := (path / mark).exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    if lost := ranks.first_problem(None if there else socket.gethostname()):
        raise UserError(
            f"--run-dir {path}: host {lost} does not see this folder, in which all ranks read and "
            "write checkpoints: choose one on a file system that all nodes share"
        )


def keep_effective_batch(config: Config, run: Path, ranks: int) -> Config:
    """Return `config` with the accumulation that gives the run's original effective batch.

    So a run that resumes with another number of ranks keeps its steps. A micro-batch that ran out
    of memory is not tried again: the run's own is used. Raises UserError when the number of ranks
    does not divide the batch.
    """
    if not (run / "run.json").exists():
        return config
    record = read_json(run, "run.json")
    effective, batch = record["effective_batch"], config.train.batch_size
    reductions = [c for c in record.get("lowered", []) if c["batch"] == "training"]
    if batch in [change["from"] for change in reductions]:
        batch = load_config(run).train.batch_size
    if effective % (batch * ranks):
        way_out = f"the number of ranks must divide {effective}"
        if fitting := _largest_batch(effective, ranks, batch):
            way_out = f"give --batch-size {fitting}"
        raise UserError(
            f"{counted(ranks, 'rank')} with --batch-size {batch} cannot make the {effective} "
            f"sequences of a step of the run in {run}: {way_out}"
        )
    return with_batch(config, batch, effective // ranks)


def _largest_batch(effective: int, ranks: int, most: int) -> int:
    """Return the largest micro-batch up to `most` that divides the step; 0 where none does."""
    if effective % ranks:
        return 0
    each = effective // ranks
    return max(size for size in range(1, min(most, each) + 1) if each % size == 0)


def with_batch(config: Config, batch: int, product: int | None = None) -> Config:
    """Return `config` with a micro-batch of `batch`, and the accumulation that gives `product`.

    `product` is the sequences of a step on each rank; None keeps it.
    """
    training = config.train
    if product is None:
        product = training.batch_size * training.gradient_accumulation
    assert product % batch == 0, (product, batch)
    accumulation = product // batch
    changed = dataclasses.replace(training, batch_size=batch, gradient_accumulation=accumulation)
    return dataclasses.replace(config, train=changed)


def write_beginning(
    folder: RunFolder, options: Options, argv: Sequence[str], training: TrainConfig
) -> None:
    """Write command line and options of a new run; when resuming, only micro-batch and paths.

    The batch is that of `training`: --auto-batch may have chosen another than `options` has.
    """
    if folder.started:
        write_batch(folder, training.batch_size)
        _write_paths(folder, options)
    else:
        folder.write_text("command", shlex.join(["python3", "gpt2/train.py", *argv]) + "\n")
        folder.write_text("config", _text_with_batch(options, training))


def write_batch(folder: RunFolder, batch: int) -> None:
    """Set the micro-batch in the run's `config`, with an accumulation that keeps its steps."""
    options = Options()
    options.read(folder.path / "config")
    config = bind(options)
    if config.train.batch_size == batch:
        return
    folder.write_text("config", _text_with_batch(options, with_batch(config, batch).train))


def _write_paths(folder: RunFolder, now: Options) -> None:
    """Update the paths of data and initial weights in the run's `config`; the content is equal."""
    options = Options()
    options.read(folder.path / "config")
    moved = {name: value for name in PATHS if (value := now.value(name)) != options.value(name)}
    for name, value in moved.items():
        options.give(name, value or "", flag_of(name))
    if moved:
        folder.write_text("config", options.full_text())


def _text_with_batch(options: Options, training: TrainConfig) -> str:
    """Return `options` as a .config, with the batch of `training`.

    Raises UserError.
    """
    options.give("BATCH_SIZE", str(training.batch_size), "--batch-size")
    accumulation = str(training.gradient_accumulation)
    options.give("GRADIENT_ACCUMULATION", accumulation, "--gradient-accumulation")
    if problems := options.check():
        raise UserError(*problems)
    return options.full_text()


def load_config(run: Path) -> Config:
    """Return the configuration of the run in `run`.

    Raises UserError.
    """
    if not (run / "config").is_file():
        if run == LATEST and not run.exists():
            raise UserError("no run yet: 'make' trains one")
        raise UserError(f"{run} is not a run directory: it has no config")
    options = Options()
    options.read(run / "config")
    try:
        return bind(options)
    except UserError as error:
        raise UserError(
            *error.messages,
            f"{run / 'config'}: not what this version of the program writes; use the version that "
            "made the run (run.json names its commit), or choose another folder",
        ) from error


def other_data(config: Config, actions: TrainActions) -> list[str]:
    """Return how to resume the run in --run-dir, if `config` names another corpus."""
    run = actions.run_dir
    if run is None or not (run / "config").exists():
        return []
    dataset = load_config(run).data.dataset
    if dataset == config.data.dataset:
        return []
    begun = shlex.split((run / "command").read_text(encoding="utf-8"))[2:]
    again = shlex.join([*interpreter.command("gpt2/train.py"), *begun, "--run-dir", str(run)])
    return [
        f"--run-dir {run} holds a run on --dataset {dataset}, resume it with all its flags: {again}"
    ]


def equal_unfinished(config: Config, besides: Path) -> Path | None:
    """Return the newest unfinished run with equal options other than `besides`, or None."""
    for run in unfinished(RUNS):
        try:
            if run != besides and _flat(load_config(run)) == _flat(config):
                return run
        except UserError:
            continue  # a run of another version, with other options
    return None


def refuse_other_options(path: Path | None, config: Config, data: Meta) -> None:
    """Raise UserError if the unfinished run in `path`, if any, has other options.

    The error names each option that differs. Call it before anything is derived from the options:
    otherwise errors would name the consequences.
    """
    if path is None or not all((path / name).is_file() for name in ("config", ".lock")):
        return  # open_folder() reports the problem of such a folder
    if not (path / "summary.json").exists():
        _refuse_other_options(path.resolve(), config, data)


def _refuse_other_options(path: Path, config: Config, data: Meta) -> None:
    before, now = _flat(load_config(path)), _flat(config)
    free = free_at_resume(before)
    if _product(before) == _product(now):
        free |= set(product_at_resume())  # the steps see the same samples
    problems = [
        f"{flag_of(name)} is {value_text(name.upper(), now.get(name))} but the run in {path} has "
        f"{value_text(name.upper(), before.get(name))}; leave it as it was, or choose another "
        "--run-dir"
        for name in sorted(before.keys() | now.keys())
        if name not in free and before.get(name) != now.get(name)
    ]
    if (path / "run.json").exists():
        problems += _other_data(path, read_json(path, "run.json")["data"], data)
    if problems:
        raise UserError(*problems)


def _other_data(path: Path, began: dict[str, Any], data: Meta) -> list[str]:
    """Return how the data differ from those with which the run in `path` `began`."""
    what, then, now = "", began["data_hash"][:12], data.data_hash[:12]
    if began["data_hash"] != data.data_hash:
        what = f"(hash {now}, not {then})"
    elif other := [k for k, value in data.tokenizer.items() if began["tokenizer"].get(k) != value]:
        what = f"in the {other[0]} of their tokenizer"
    if not what:
        return []
    return [
        f"the data have changed since the run in {path} began {what}; put them back, or choose "
        "another --run-dir"
    ]


def _product(flat: dict[str, Any]) -> int:
    return math.prod(flat[name] for name in product_at_resume())


def _flat(config: Config) -> dict[str, Any]:
    """Return the options as one dictionary by option name, a plug-in's own under its name."""
    found: dict[str, Any] = {}
    for part in (config.data, config.model, config.optim, config.prune, config.train):
        if part is None:
            continue
        values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        own = values.pop("options", None)
        for choice in PLUGIN_PACKAGES:
            if own is not None and choice.lower() in values:
                found.update(own_values(values[choice.lower()], own))
        found.update(values)
    found.update(dataclasses.asdict(config.machine))
    found["compile"] = bool(config.machine.compile)  # None where it does not apply, as with --shard
    return found
