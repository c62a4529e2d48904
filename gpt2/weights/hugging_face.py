"""Names and orientation of Hugging Face's GPT2LMHeadModel tensors, and ours.

Names are the same. Hugging Face's linear layers are Conv1D with weights (in, out), ours are
nn.Linear with (out, in). Both directions transpose one tensor at a time, without copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gpt2.config.typed import ModelConfig

_CONV1D = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
_MASKS = (".attn.bias", ".attn.masked_bias")  # constants in old files
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"
_EMBEDDINGS = (EMBEDDING, "transformer.wpe.weight")


def to_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of GPT.state_dict() as GPT2LMHeadModel stores them, without lm_head.

    Transposed tensors are views: the writer must make them contiguous, one by one.
    """
    return {name: transposed(name, tensor) for name, tensor in tensors.items()}


def our_name(name: str) -> str | None:
    """Return our name of Hugging Face's tensor `name`; None if we have none (head, masks)."""
    if name == HEAD or name.endswith(_MASKS):
        return None
    return name if name.startswith("transformer.") else f"transformer.{name}"


def transposed(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor with our `name` in the other orientation, a view; most are unchanged."""
    return tensor.t() if name.endswith(_CONV1D) else tensor


def missing_biases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a bias of zeros (out,) for each layer and norm of GPT.state_dict() without one.

    Hugging Face's GPT-2 requires biases; zeros do not change the result.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bias = name.removesuffix(".weight") + ".bias"
        if name.endswith(".weight") and name not in _EMBEDDINGS and bias not in tensors:
            found[bias] = torch.zeros(tensor.size(0), dtype=tensor.dtype)
    return found


def hugging_face_config(
    config: ModelConfig, vocab_size: int, end_of_text: int | None, dtype: str
) -> dict[str, Any]:
    """Return a config.json with which GPT2LMHeadModel computes the same as our model."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": vocab_size,
        "n_positions": config.block_size,
        "n_ctx": config.block_size,  # an older name that GGUF converters need
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "initializer_range": 0.02,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
    }
