"""One start of train.py in three phases: check, open the run directory, run."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.config.actions import TrainActions
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.typed import Config
from gpt2.data.tokens import TokenFile
from gpt2.machine import device as machine
from gpt2.machine import out_of_memory
from gpt2.machine.ranks import alone, init_distributed
from gpt2.machine.signals import StopRequest
from gpt2.model.build import build_model
from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import RunFolder
from gpt2.run_dir.latest import point_latest
from gpt2.run_dir.resume import (
    RUNS,
    keep_effective_batch,
    open_for_all,
    other_data,
    write_beginning,
)
from gpt2.session.attempt import Attempt
from gpt2.session.check import Prepared, check
from gpt2.session.guards import guard, watchdog
from gpt2.session.likeness import refuse_no_data, refuse_unlike
from gpt2.session.messages import stopping_early
from gpt2.session.retry import explain_out_of_memory, retry_on_oom
from gpt2.training.assembly import build_parts, open_data
from gpt2.training.rollback import Rollback


def run(config: Config, options: Options, actions: TrainActions, argv: Sequence[str]) -> int:
    """Train as `config` says; return the exit code.

    Raises UserError.
    """
    data: dict[str, TokenFile] = {}
    problem = None
    try:
        data = open_data(config)
    except UserError as error:  # of several ranks, only one may have it
        problem = UserError(*error.messages, *other_data(config, actions), code=error.code)
        if alone():
            raise problem from error
    ranks = init_distributed(
        config.machine.device, config.machine.shard, config.machine.device_index
    )
    try:
        refuse_no_data(ranks, problem)
        refuse_unlike(ranks, config, data["train"].meta.data_hash)
        # Without a model, a smaller micro-batch would not help.
        made = f"out of memory while {config.model.model} is made: choose a smaller --model"
        with out_of_memory.explained(made):
            prepared = check(config, options, actions, argv, data, ranks)
            folder = open_run(prepared)
            try:
                return Session(prepared, folder).run()
            finally:
                folder.close()
    finally:
        ranks.close()


def open_run(prepared: Prepared) -> RunFolder:
    """Open the run directory: a new one, or that of an unfinished run.

    Raises UserError.
    """
    meta, device = prepared.data["train"].meta, prepared.device.type
    return open_for_all(prepared.config, prepared.actions, meta, device, prepared.ranks)


class Session:
    """A checked run in its open folder, until the end of this process."""

    def __init__(self, prepared: Prepared, folder: RunFolder) -> None:
        self.prepared, self.folder = prepared, folder
        self.stop = StopRequest()
        if prepared.ranks.first:
            self.stop.notice = stopping_early
        self.watchdog = watchdog(prepared.config, folder, prepared.ranks)

    def run(self) -> int:
        """Train to the end, or until asked to stop; return the exit code.

        Raises UserError.
        """
        prepared, folder, ranks = self.prepared, self.folder, self.prepared.ranks
        prepared.host.offer_to_the_oom_killer()
        machine.keep_freed_memory(prepared.device)
        config = keep_effective_batch(prepared.config, folder.path, ranks.world_size)
        memory = guard(prepared.host, config.machine, folder, ranks, self.stop)
        with self.stop, memory, self.watchdog:
            return retry_on_oom(config, folder, ranks, self._attempt)

    def _attempt(self, config: Config, again: bool, rollback: Rollback | None) -> int:
        """Build all parts of the run and train them; see retry_on_oom."""
        prepared, folder, ranks = self.prepared, self.folder, self.prepared.ranks
        device, data, weights = prepared.device, prepared.data, prepared.weights
        self.watchdog.starting()
        # Every rank draws its own dropout masks.
        precision = prepared.precision.precision
        machine.prepare(config.machine, precision, config.train.seed + ranks.rank)
        fill = weights.copy_to if weights else None
        began = weights.identity() if weights else None  # before runs/latest becomes this run
        vocabulary = data["train"].meta.vocab_size
        model = build_model(config.model, vocabulary, device, config.train.seed, fill)
        parts = build_parts(config, model, data["train"], device, precision, ranks)
        parts.precision.why = prepared.precision.why
        write_beginning(folder, prepared.options, prepared.argv, config.train)
        if folder.path.parent == RUNS and ranks.first:
            point_latest(folder.path, Console(folder.log).warn)
        attempt = Attempt(config, folder, model, parts, data, self.stop, self.watchdog, began)
        with (
            attempt.recorded(again),
            explain_out_of_memory(parts, attempt.progress, config.train, folder),
        ):
            return attempt.run(rollback)
