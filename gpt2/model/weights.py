"""Hugging Face interchange: names and orientation of GPT2LMHeadModel's tensors, and ours.

Names are the same. Hugging Face's linear layers are Conv1D with weights (in, out), ours are
nn.Linear with (out, in); both directions turn one tensor at a time and copy none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_CONV1D = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
_MASKS = (".attn.bias", ".attn.masked_bias")  # constants that old files hold
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"


def to_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of GPT.state_dict() as GPT2LMHeadModel stores them, without lm_head.

    The turned ones are views: whoever writes a file makes them contiguous, one after the other.
    """
    return {name: turned(name, tensor) for name, tensor in tensors.items()}


def from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a GPT2LMHeadModel, or of its bare GPT2Model, for GPT.load_state_dict.

    The tied lm_head and the causal masks of old files are left out; turned weights are views.
    Raises ValueError when lm_head is a matrix of its own.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if full := our_name(name):
            ours[full] = turned(full, tensor)
    head = tensors.get(HEAD)
    if head is not None and EMBEDDING in ours and not torch.equal(head, ours[EMBEDDING]):
        raise ValueError(f"{HEAD} differs from {EMBEDDING}: only tied heads can be taken over")
    return ours


def our_name(name: str) -> str | None:
    """Return our name of Hugging Face's tensor `name`; None where we have none (head, masks)."""
    if name == HEAD or name.endswith(_MASKS):
        return None
    return name if name.startswith("transformer.") else f"transformer.{name}"


def turned(name: str, tensor: Tensor) -> Tensor:
    """Return a view of the tensor of our `name` in the other orientation, which few have."""
    return tensor.t() if name.endswith(_CONV1D) else tensor
