"""The parts of a run, built from its configuration; plug-ins are imported here, by name."""

from __future__ import annotations

import torch

from gpt2.config import plugins
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import PLUGIN_PACKAGES, Config
from gpt2.data.batches import TrainBatches, steps_for
from gpt2.data.tokens import TokenFile, open_split
from gpt2.model.gpt import GPT
from gpt2.optim.groups import parameter_groups
from gpt2.optim.precision import Precision
from gpt2.optim.schedule import Schedule
from gpt2.training.distributed import Ranks
from gpt2.training.loop import Parts


def open_data(config: Config) -> dict[str, TokenFile]:
    """Open both splits of the corpus. Raises UserError."""
    folder = config.data.data_dir / config.data.dataset
    data = {
        "train": open_split(folder, "train", config.model.block_size),
        "val": open_split(folder, "val", 1),
    }
    asked, made = config.data.tokenizer, data["train"].meta.tokenizer["name"]
    if asked is not None and asked != made:
        raise UserError(
            f"--tokenizer {asked}: the data in {folder} were made with {made!r}: "
            f"--tokenizer {made} takes them as they are, prepare_data.py --force makes them anew",
            code=Exit.DATA,
        )
    return data


def check_optimizer(config: Config, ranks: int = 1) -> None:
    """Let the optimizer refuse what its module alone can tell, before there is a run directory.

    `ranks` is the number of processes that train together. Raises UserError.
    """
    plugin = plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], config.optim.optimizer)
    if hasattr(plugin, "check"):
        plugin.check(config.optim, ranks)


def build_parts(
    config: Config,
    model: GPT,
    tokens: TokenFile,
    device: torch.device,
    precision: str,
    ranks: Ranks,
) -> Parts:
    """Build what the loop needs."""
    optim, training = config.optim, config.train
    forward = ranks.spread(model, device)  # first: it may divide the parameters
    groups = parameter_groups(model, optim.learning_rate, optim.weight_decay)
    plugin = plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], optim.optimizer)
    optimizer: torch.optim.Optimizer = plugin.build(groups, optim.options)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    method = plugins.load(
        PLUGIN_PACKAGES["PRUNING_METHOD"], config.prune.pruning_method if config.prune else "none"
    )
    batches = TrainBatches(
        tokens,
        block_size=config.model.block_size,
        batch_size=training.batch_size,
        gradient_accumulation=training.gradient_accumulation,
        seed=training.seed,
        device=device,
        num_workers=config.data.num_workers,
        rank=ranks.rank,
        ranks=ranks.count,
    )
    limits = [training.max_steps] if training.max_steps else []
    if training.num_epochs:
        count, block = len(tokens.ids), config.model.block_size
        limits.append(steps_for(training.num_epochs, count, block, batches.effective_batch))
    rate = optim.learning_rate
    schedule = Schedule(
        kind=optim.lr_schedule,
        final=0.1 if optim.min_lr is None or rate == 0.0 else optim.min_lr / rate,
        warmup=optim.warmup_steps,
        steps=min(limits) if limits else None,
        decay=optim.wsd_decay or 0.0,
    )
    return Parts(
        model=model,
        forward=forward,
        ranks=ranks,
        optimizer=optimizer,
        schedule=schedule,
        precision=Precision(precision, device),
        pruner=method.build(model, config.prune.options if config.prune else None),
        batches=batches,
        gradient_accumulation=training.gradient_accumulation,
        grad_clip=optim.grad_clip,
    )
