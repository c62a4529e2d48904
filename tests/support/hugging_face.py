"""A whole model of transformers as ours, by the map that --init-from uses tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gpt2.weights.hugging_face import EMBEDDING, HEAD, our_name, transposed


def from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a GPT2LMHeadModel, or of its bare GPT2Model, for GPT.load_state_dict.

    The tied lm_head and the causal masks of old files are left out; transposed weights are views.
    Raises ValueError when lm_head is a matrix of its own.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if full := our_name(name):
            ours[full] = transposed(full, tensor)
    head = tensors.get(HEAD)
    if head is not None and EMBEDDING in ours and not torch.equal(head, ours[EMBEDDING]):
        raise ValueError(f"{HEAD} differs from {EMBEDDING}: only tied heads can be taken over")
    return ours
