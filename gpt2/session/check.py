"""Everything that can be refused before there is a run: checked, and nothing is changed by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from gpt2.config.actions import TrainActions
from gpt2.config.options import Options
from gpt2.config.typed import Config
from gpt2.data.tokens import TokenFile
from gpt2.machine.device import resolve_device
from gpt2.machine.host_memory import Host
from gpt2.machine.ranks import DistributedContext
from gpt2.optim.precision import resolve_precision
from gpt2.planning.command import refuse_or_fit
from gpt2.run_dir.resume import refuse_other_options
from gpt2.session.guards import check_host
from gpt2.training.assembly import check_optimizer, refuse_pruning
from gpt2.weights.initial import find_weights
from gpt2.weights.pretrained import Pretrained
from gpt2.weights.trained import warn


@dataclass(frozen=True)
class Prepared:
    """A run that can begin: what was asked for, and what it was found to mean on this machine.

    weights: what --init-from names, if anything. precision: fp32, bf16 or fp16.
    """

    config: Config
    options: Options
    actions: TrainActions
    argv: Sequence[str]
    data: Mapping[str, TokenFile]
    ranks: DistributedContext
    host: Host
    device: torch.device
    precision: str
    weights: Pretrained | None


def check(
    config: Config,
    options: Options,
    actions: TrainActions,
    argv: Sequence[str],
    data: Mapping[str, TokenFile],
    ranks: DistributedContext,
) -> Prepared:
    """Return the run that `config` asks for, ready to begin. Raises UserError."""
    if not actions.auto_batch:  # which gives a run that resumes its own batch, later
        refuse_other_options(actions.run_dir, config, data["train"].meta)
    host = check_host(config.machine)
    device = resolve_device(config.machine.device, config.machine.device_index)
    precision = resolve_precision(config.optim.precision, device)
    meta = data["train"].meta
    check_optimizer(config, ranks.world_size)
    say = warn if ranks.first else _say_nothing
    weights = find_weights(config, meta, actions.run_dir, say)
    refuse_pruning(config, data["train"], ranks, actions.run_dir)
    config = refuse_or_fit(config, actions, meta.vocab_size, ranks)
    return Prepared(config, options, actions, argv, data, ranks, host, device, precision, weights)


def _say_nothing(_: str) -> None:
    """Leave it to the first rank."""
