"""Build the parts of a run from its configuration; plug-ins are imported here, by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from gpt2.config import plugins
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import PLUGIN_PACKAGES, Config, TrainConfig
from gpt2.data.batches import (
    BatchOrder,
    TrainBatches,
    calibration_batches,
    sequences_per_epoch,
    steps_for,
)
from gpt2.data.memmap import Ids
from gpt2.data.meta import META, read_meta
from gpt2.data.tokenizer import from_description
from gpt2.data.tokens import TokenFile, open_split
from gpt2.machine.cards import peak_flops
from gpt2.machine.device import device_name
from gpt2.machine.ranks import DistributedContext
from gpt2.model.build import palm_flops
from gpt2.model.language_model import LanguageModel
from gpt2.optim.groups import parameter_groups
from gpt2.optim.precision import Precision
from gpt2.optim.schedule import Schedule
from gpt2.optim.step_guard import SpikeWindow, StepGuard
from gpt2.prune.allocation import GROUPED
from gpt2.prune.base import PruningContext
from gpt2.prune.calibration import Calibration
from gpt2.prune.pruner import Pruner
from gpt2.prune.schedule import SparsitySchedule, schedule_of
from gpt2.prune.static import KeptPruner
from gpt2.training.final_losses import VAL_TEST
from gpt2.training.loop import Parts


def open_data(config: Config) -> dict[str, TokenFile]:
    """Open the splits of the corpus: train, val and, if it exists, test and val+test.

    Raises UserError.
    """
    folder = config.data.data_dir / config.data.dataset
    read_meta(folder, config.data.tokenizer)  # its error names the command that makes the data
    data = {
        "train": open_split(folder, "train", config.model.block_size),
        "val": open_split(folder, "val", 1),
    }
    test = data["train"].meta.splits.get("test")
    if test is not None and test.tokens > 1:  # one token has no target
        data |= {name: open_split(folder, name, 1) for name in ("test", VAL_TEST)}
    asked, made = config.data.tokenizer, data["train"].meta.tokenizer["name"]
    if asked is not None and asked != made:
        raise UserError(
            f"--tokenizer {asked}: the data in {folder} were made with {made!r}: "
            f"use --tokenizer {made}, or prepare them again with prepare_data.py --force",
            code=Exit.DATA,
        )
    from_description(data["train"].meta.tokenizer, folder / META).check()
    return data


def length_of(config: Config, tokens: TokenFile, ranks: int) -> int | None:
    """Return the steps of a run over `ranks` ranks; None when only time ends it."""
    training = config.train
    limits = [training.max_steps] if training.max_steps else []
    if training.num_epochs:
        count, block = len(tokens.ids), config.model.block_size
        batch = training.batch_size * training.gradient_accumulation * ranks
        limits.append(steps_for(training.num_epochs, count, block, batch))
    return min(limits) if limits else None


def refuse_pruning(
    config: Config, tokens: TokenFile, ranks: DistributedContext, run_dir: Path | None = None
) -> None:
    """Raise UserError for pruning that cannot be done, before anything is written."""
    prune, problems = config.prune, []
    if prune is None:
        return
    # A run that resumes, perhaps with other ranks, keeps the number of steps that was checked.
    begun = run_dir is not None and (run_dir / "run.json").exists()
    steps = None if begun else length_of(config, tokens, ranks.world_size)
    schedule = schedule_of(prune)
    if (
        prune.pruning_interval is not None
        and steps
        and prune.pruning_interval > schedule.steps(steps)
    ):
        problems.append(
            f"--pruning-interval {prune.pruning_interval} is longer than the ramp, which takes "
            f"{schedule.steps(steps)} of {steps} steps: give a shorter one, or auto"
        )
    group = GROUPED.get(prune.sparsity_pattern, (0, 1))[1]
    if config.model.n_embd % group:
        problems.append(
            f"--sparsity-pattern {prune.sparsity_pattern} needs rows of a multiple of {group} "
            f"weights, and --n-embd is {config.model.n_embd}: choose another width or pattern"
        )
    if prune.calibration_sequences is not None:
        there = sequences_per_epoch(len(tokens.ids), config.model.block_size)
        if there < prune.calibration_sequences:
            problems.append(
                f"--calibration-sequences {prune.calibration_sequences}: the training text has "
                f"{there} sequences of {config.model.block_size} tokens; ask for fewer"
            )
        if ranks.sharded:
            problems.append(
                f"--pruning-method {prune.pruning_method} looks at whole layers, which --shard "
                f"{config.machine.shard} divides: use --shard none, or another method"
            )
    if problems:
        raise UserError(*problems)


def build_pruner(
    config: Config,
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    tokens: TokenFile | Ids,
    precision: Precision,
) -> Pruner:
    """Build the pruner of `model`; without pruning, one that does nothing."""
    prune = config.prune

    def batches() -> Iterator[Tensor]:
        assert prune is not None
        assert prune.calibration_sequences is not None
        return calibration_batches(
            tokens,
            config.model.block_size,
            config.train.batch_size,
            prune.calibration_sequences,
            config.train.seed,
            precision.device,
        )

    def forward(ids: Tensor) -> None:
        training = model.training
        try:
            with torch.no_grad(), precision.autocast():
                model.eval().hidden(ids)  # not the compiled model: hooks need the modules
        finally:
            model.train(training)

    context = PruningContext(
        weights=may_be_zero(config, model),
        parameters=model.parameter_count(),
        optimizer=optimizer,
        schedule=schedule_of(prune) if prune else SparsitySchedule("step", 1.0, 1.0, 0.0, None),
        pattern=prune.sparsity_pattern if prune else "global",
        seed=config.train.seed,
        calibration=Calibration(model, batches, forward),
        clear_state=not hasattr(_optimizer_plugin(config), "STATE_ELSEWHERE"),
        keeps_zeros=hasattr(_optimizer_plugin(config), "KEEPS_ZEROS"),
    )
    if config.model.keep_sparsity:
        return KeptPruner(context)
    method = prune.pruning_method if prune else "none"
    plugin = plugins.load(PLUGIN_PACKAGES["PRUNING_METHOD"], method)
    pruner: Pruner = plugin.build(context, prune.options if prune else None)
    return pruner


def may_be_zero(config: Config, model: LanguageModel) -> dict[str, nn.Parameter]:
    """Return the parameters by name that a run prunes, or whose zeros it keeps."""
    if config.prune is not None:
        return model.prunable(config.prune.prune_scope)
    return model.prunable("all") if config.model.keep_sparsity else {}


def _optimizer_plugin(config: Config) -> ModuleType:
    return plugins.load(PLUGIN_PACKAGES["OPTIMIZER"], config.optim.optimizer)


def check_optimizer(config: Config, ranks: int = 1) -> None:
    """Run the optimizer's own check, before the run directory exists.

    `ranks` is the number of processes that train together. Raises UserError.
    """
    plugin = _optimizer_plugin(config)
    if hasattr(plugin, "check"):
        plugin.check(config.optim, ranks)


def build_optimizer(config: Config, model: LanguageModel) -> torch.optim.Optimizer:
    """Build the optimizer over the parameters of `model`."""
    optim = config.optim
    groups = parameter_groups(model, optim.learning_rate, optim.weight_decay)
    optimizer: torch.optim.Optimizer = _optimizer_plugin(config).build(groups, optim.options)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def _step_guard(
    training: TrainConfig, device: torch.device, ranks: DistributedContext
) -> StepGuard:
    window = None
    if training.spike != "off":
        assert training.spike_window is not None
        assert training.spike_sigmas is not None
        window = SpikeWindow(training.spike_window, training.spike_sigmas, device)
    return StepGuard(device, training.nonfinite, window, ranks.all_reduce_mean)


def build_parts(
    config: Config,
    model: LanguageModel,
    tokens: TokenFile,
    device: torch.device,
    precision: str,
    ranks: DistributedContext,
) -> Parts:
    """Build the parts that the loop needs."""
    optim, training = config.optim, config.train
    forward = ranks.parallelize(model, device)  # first: it may shard the parameters
    optimizer = build_optimizer(config, model)
    order = BatchOrder(
        block_size=config.model.block_size,
        batch_size=training.batch_size,
        gradient_accumulation=training.gradient_accumulation,
        seed=training.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    own_precision = Precision(precision, device, _step_guard(training, device, ranks))
    rate = optim.learning_rate
    schedule = Schedule(
        kind=optim.lr_schedule,
        final=0.1 if optim.min_lr is None or rate == 0.0 else optim.min_lr / rate,
        warmup=optim.warmup_steps,
        steps=length_of(config, tokens, ranks.world_size),
        decay=optim.wsd_decay or 0.0,
    )
    peak = peak_flops(device_name(device), precision) if device.type == "cuda" else None
    return Parts(
        model=model,
        forward=forward,
        ranks=ranks,
        optimizer=optimizer,
        schedule=schedule,
        precision=own_precision,
        pruner=build_pruner(config, model, optimizer, tokens, own_precision),
        batches=TrainBatches(tokens, order, device, config.data.num_workers),
        gradient_accumulation=training.gradient_accumulation,
        grad_clip=optim.grad_clip,
        flops_per_token=palm_flops(config.model, model.parameter_count()),
        peak_flops=peak and ranks.world_size * peak,
    )
