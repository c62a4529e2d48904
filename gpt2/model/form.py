"""How a step is computed where the kernels of devices differ, so that one can be planned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """What a model does where the tensors it is given decide, unless this says otherwise.

    Only a plan does: it runs the step of a GPU on fake tensors of a CPU.
    tall: the loss holds logits as columns; None: on a CPU in fp32. cuda: the head is padded for the
    products of a GPU; None: on one. chunks: so many of the loss are
    computed and the others left out, which changes the result but not the memory; None: all.
    byte_masks: dropout keeps its mask in bytes, as on CUDA. unmasked: fused attention drops out
    inside its kernel and keeps no mask, as there.
    """

    tall: bool | None = None
    cuda: bool | None = None
    chunks: int | None = None
    byte_masks: bool = False
    unmasked: bool = False

    def dropout(self, x: Tensor, rate: float, training: bool = True) -> Tensor:
        """Return x with a share of `rate` of its numbers set to zero, the others scaled up."""
        if self.byte_masks and training and rate > 0.0:
            dropped: Tensor = torch.native_dropout(x, rate, True)[0]
            return dropped
        return F.dropout(x, rate, training)


#: That of the tensors themselves.
OWN = Form()
