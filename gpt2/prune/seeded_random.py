"""Random numbers that depend on names and the seed only: the same on every device and rank."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2.model.init import seeded_generator


def uniform(shape: torch.Size, seed: int, *names: object) -> Tensor:
    """Return numbers in [0, 1), fp32, on the CPU, determined by `seed` and `names`."""
    return torch.rand(shape, generator=seeded_generator(seed, *names))
