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

    The paper adds 1e-30 to every squared gradient. torch takes the square of its epsilon as the
    least second moment, hence 1e-15, and the epsilon itself as the least mean squared gradient of
    a matrix. Its default there, fp32's resolution (1.2e-7), is above that mean as soon as a clipped
    model has some eight million weights; 1e-15 is met by gradients below 3e-8 alone.
    """
    return torch.optim.Adafactor(
        groups, beta2_decay=-options.decay, eps=(1e-15, options.eps), d=options.clip
    )
