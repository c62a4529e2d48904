"""Choices of kernel and memory layout that depend on the device, so that a plan can set them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """Overrides for what the device of the tensors decides otherwise; OWN overrides nothing.

    Only the memory plan sets these: it runs the step of a GPU on fake tensors of a CPU.

    tall: the loss holds logits as columns; None: on a CPU in fp32.
    cuda: the head is padded for the products of a GPU; None: on a GPU.
    chunks: compute only this many chunks of the loss; None: all. The result changes, the memory
        does not.
    byte_masks: dropout keeps its mask in bytes, as on CUDA.
    unmasked: fused attention keeps no dropout mask, as on CUDA.
    """

    tall: bool | None = None
    cuda: bool | None = None
    chunks: int | None = None
    byte_masks: bool = False
    unmasked: bool = False

    def dropout(self, x: Tensor, rate: float, training: bool = True) -> Tensor:
        """Return x with a share `rate` of its numbers set to zero and the others scaled up."""
        if self.byte_masks and training and rate > 0.0:
            dropped: Tensor = torch.native_dropout(x, rate, True)[0]
            return dropped
        return F.dropout(x, rate, training)


#: Decide everything by the tensors given.
OWN = Form()
