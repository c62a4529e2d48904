"""Adafactor: a second moment kept as row and column means (Shazeer and Stern 2018, algorithm 4).

Its rate is a share of the root mean square of what it updates, and at most 1/sqrt(step).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.typed import Within


@dataclass(frozen=True)
class Options:
    """Adafactor's own options."""

    decay: Annotated[float, Within("(0, 1]")]
    clip: Annotated[float, Within("[1, inf)")]
    eps: Annotated[float, Within("(0, inf)")]


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build torch's Adafactor over `groups`.

    The paper's first epsilon is 1e-30, under the squared gradients. torch squares the number that
    it is given; its own default, fp32's resolution, is above the mean squared gradient of a matrix
    as soon as a clipped model has some eight million weights, and would then stand in its place.
    """
    return torch.optim.Adafactor(
        groups, beta2_decay=-options.decay, eps=(1e-15, options.eps), d=options.clip
    )
