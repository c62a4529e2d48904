"""Initial weights: the same on every device and for every number of ranks."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn


def initialise(model: nn.Module, seed: int, n_layer: int) -> None:
    """Initialise every parameter of `model`, in place.

    Weights are normal with standard deviation 0.02; projections into the residual stream are scaled
    by 1/sqrt(2 n_layer) (Radford et al. 2019, section 2.3); biases are 0, norms 1. Positions have
    0.02, as in Hugging Face's GPT-2 and nanoGPT; OpenAI's code has 0.01, and does not scale.

    Each tensor is drawn on the CPU by a generator seeded with hash(seed, name). So neither the
    device nor the order of parameters matters, and at most one tensor exists twice at a time.
    """
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.endswith("bias"):
                parameter.zero_()
            elif ".ln_" in name:
                parameter.fill_(1.0)
            else:
                deviation = 0.02
                if name.endswith("c_proj.weight"):
                    deviation /= math.sqrt(2 * n_layer)
                parameter.copy_(_normal(parameter.shape, deviation, seed, name))


def _normal(shape: torch.Size, deviation: float, seed: int, name: str) -> torch.Tensor:
    return torch.empty(shape).normal_(0.0, deviation, generator=seeded_generator(seed, name))


def seeded_generator(seed: int, *names: object) -> torch.Generator:
    """Return a CPU generator that depends on `seed` and `names` only."""
    text = ":".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
