"""A small GPT-2, gradients for it, and a PruningContext to prune it in, for tests of pruning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.config.typed import ModelConfig
from gpt2.model.gpt import GPT
from gpt2.model.init import initialise
from gpt2.optim.groups import parameter_groups
from gpt2.prune.base import PruningContext
from gpt2.prune.calibration import Calibration
from gpt2.prune.schedule import SparsitySchedule

VOCABULARY = 24


def small_gpt(seed: int = 1, width: int = 16, layers: int = 2) -> GPT:
    config = ModelConfig(
        model="custom",
        n_layer=layers,
        n_head=2,
        n_embd=width,
        block_size=8,
        dropout=0.0,
        bias=True,
        flash_attention=True,
        activation_checkpointing="none",
        residual_precision=None,
        loss="full",
        loss_chunk_mib=None,
        init_from=None,
        keep_sparsity=None,
    )
    model = GPT(config, VOCABULARY)
    initialise(model, seed, layers)
    return model


def sequences(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (count, 8), generator=generator)


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def setting_of(
    model: GPT,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: SparsitySchedule | None = None,
    **changes: Any,
) -> PruningContext:
    """A setting that prunes half of all, at once, unless something else is asked for."""
    if optimizer is None:
        optimizer = torch.optim.AdamW(parameter_groups(model, 1e-2, 0.1))

    def batches() -> Iterator[Tensor]:
        yield from sequences(6).split(2)

    def forward(ids: Tensor) -> None:
        with torch.no_grad():
            model.transformer.forward(ids)

    values: dict[str, Any] = {
        "weights": model.prunable("blocks"),
        "parameters": model.parameter_count(),
        "optimizer": optimizer,
        "schedule": schedule or SparsitySchedule("step", 0.0, 0.0, 0.5, None),
        "pattern": "global",
        "seed": 1,
        "calibration": Calibration(model, batches, forward),
    }
    return PruningContext(**(values | changes))
