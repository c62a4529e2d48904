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
_HEAD, _EMBEDDING = "lm_head.weight", "transformer.wte.weight"


def to_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of GPT.state_dict() as GPT2LMHeadModel stores them, without lm_head.

    The turned ones are views: whoever writes a file makes them contiguous, one after the other.
    """
    return {name: _turned(name, tensor) for name, tensor in tensors.items()}


def from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a GPT2LMHeadModel, or of its bare GPT2Model, for GPT.load_state_dict.

    The tied lm_head and the causal masks of old files are left out; turned weights are views.
    Raises ValueError when lm_head is a matrix of its own.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == _HEAD or name.endswith(_MASKS):
            continue
        full = name if name.startswith("transformer.") else f"transformer.{name}"
        ours[full] = _turned(full, tensor)
    head = tensors.get(_HEAD)
    if head is not None and _EMBEDDING in ours and not torch.equal(head, ours[_EMBEDDING]):
        raise ValueError(f"{_HEAD} differs from {_EMBEDDING}: only tied heads can be taken over")
    return ours


def _turned(name: str, tensor: Tensor) -> Tensor:
    return tensor.t() if name.endswith(_CONV1D) else tensor
