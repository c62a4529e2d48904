"""Check everything that can be refused before the run exists; change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gpt2.config import scratch
from gpt2.config.actions import TrainActions
from gpt2.config.options import Options
from gpt2.config.typed import Config
from gpt2.data.tokens import TokenFile
from gpt2.machine.device import resolve_device
from gpt2.machine.host_memory import Host
from gpt2.machine.processor import has_bf16
from gpt2.machine.ranks import DistributedContext
from gpt2.planning.calibration import LEAST_WIDTH, Choice
from gpt2.planning.command import refuse_or_fit
from gpt2.planning.cpu_precision import begun, choose
from gpt2.run_dir.resume import refuse_other_options
from gpt2.session.guards import check_host
from gpt2.training.assembly import check_optimizer, refuse_pruning
from gpt2.weights.initial import find_weights
from gpt2.weights.pretrained import Pretrained
from gpt2.weights.trained import warn


@dataclass(frozen=True)
class Prepared:
    """A run that can begin: its options, and what they resolve to on this machine.

    weights: the weights of --init-from, if any. precision: fp32, bf16 or fp16, and why.
    """

    config: Config
    options: Options
    actions: TrainActions
    argv: Sequence[str]
    data: Mapping[str, TokenFile]
    ranks: DistributedContext
    host: Host
    device: torch.device
    precision: Choice
    weights: Pretrained | None


def check(
    config: Config,
    options: Options,
    actions: TrainActions,
    argv: Sequence[str],
    data: Mapping[str, TokenFile],
    ranks: DistributedContext,
) -> Prepared:
    """Return the run that `config` asks for, ready to begin.

    Raises UserError.
    """
    if not actions.auto_batch:  # a resumed run gets its own batch later
        refuse_other_options(actions.run_dir, config, data["train"].meta)
    with scratch.folder():  # torch needs temporary files, too, and would end in a traceback
        pass
    host = check_host(config.machine)
    device = resolve_device(config.machine.device, config.machine.device_index)
    precision = _precision(config, actions.run_dir, device, ranks)
    meta = data["train"].meta
    check_optimizer(config, ranks.world_size)
    say = warn if ranks.first else _say_nothing
    weights = find_weights(config, meta, actions.run_dir, say)
    refuse_pruning(config, data["train"], ranks, actions.run_dir)
    config = refuse_or_fit(config, actions, meta.vocab_size, ranks)
    return Prepared(config, options, actions, argv, data, ranks, host, device, precision, weights)


def _precision(
    config: Config, run: Path | None, device: torch.device, ranks: DistributedContext
) -> Choice:
    """Return the precision of this run; where auto decides and the run resumes, as it began.

    The first rank measures, for all ranks.
    """
    began = begun(config, device, run)
    choice: Choice = ranks.gather(began or choose(config, device, measure=ranks.first))[0]
    asked_here = config.model.n_embd >= LEAST_WIDTH and has_bf16()  # else auto does not measure
    if choice.why and asked_here and not began and ranks.first:
        print(f"--precision auto: {choice.precision}, as {choice.why}", flush=True)
    return choice


def _say_nothing(_: str) -> None:
    """Do nothing: the first rank prints."""
