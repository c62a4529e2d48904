"""Copy a checkpoint's weights into a model."""

from __future__ import annotations

from typing import Any

from gpt2.checkpoint.store import Checkpoint
from gpt2.config.errors import UserError
from gpt2.config.text import shortened
from gpt2.machine.shards import shard_like


def load_model(model: Any, found: Checkpoint) -> None:
    """Copy a checkpoint's weights into `model`.

    Raises UserError where they do not fit.
    """
    wanted = dict(model.named_parameters())
    if wrong := wanted.keys() ^ found.model.keys():
        raise UserError(f"the checkpoint is of another model: {shortened(sorted(wrong), 3)}")
    for name, parameter in wanted.items():
        value = found.model[name]  # once: reading may build it
        if parameter.shape != value.shape:
            have, need = tuple(value.shape), tuple(parameter.shape)
            raise UserError(f"the checkpoint has {name} of shape {have}, the model needs {need}")
        parameter.data.copy_(shard_like(value, parameter))
