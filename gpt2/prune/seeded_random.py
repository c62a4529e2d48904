"""Random numbers that depend on names and the seed alone: the same on every device and rank."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def uniform(shape: torch.Size, seed: int, *names: object) -> Tensor:
    """Return numbers in [0, 1), fp32, on the CPU, drawn for what `names` say."""
    text = ":".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(shape, generator=generator)
