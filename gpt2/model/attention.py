"""Causal self-attention: by torch's fused kernel, or written out. Both give the same result."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2.config.typed import ModelConfig
from gpt2.model.form import OWN, Form

#: Names of the kernels that torch chooses from (the numbers of torch.nn.attention.SDPBackend).
_KERNELS = {
    -1: "none",
    0: "math",
    1: "flash",
    2: "memory-efficient",
    3: "cudnn",
    4: "overrideable",
}


def flash_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float, form: Form = OWN) -> Tensor:
    """Attend by scaled_dot_product_attention; q, k, v and the result are (B, H, T, D).

    A single query (B, H, 1, D) belongs to the last token and sees all keys.
    """
    causal = q.size(-2) > 1
    dropout = 0.0 if form.unmasked else dropout
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float, form: Form = OWN) -> Tensor:
    """Attend by the formula of Vaswani et al. 2017 (3.2.1); all tensors are (B, H, T, D).

    Holds the (B, H, T, T) matrix of attention weights. The softmax is computed in fp32. A single
    query (B, H, 1, D) belongs to the last token and sees all keys.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # (B, H, T, T)
    seen = k.size(-2) - q.size(-2)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1 + seen)
    weights = scores.float().masked_fill(future, float("-inf")).softmax(dim=-1).to(v.dtype)
    return form.dropout(weights, dropout) @ v


def kernel_taken(q: Tensor, dropout: float) -> str:
    """Return the name of the kernel that flash_attention uses for queries like `q` (B, H, T, D)."""
    if q.device.type not in ("cpu", "cuda"):
        return "fused"  # torch reports its choice on these two only
    choice = torch._fused_sdp_choice(q, q, q, dropout_p=dropout, is_causal=True)
    return _KERNELS.get(int(choice), str(choice))


def attention_form(
    config: ModelConfig, batch: int, dtype: torch.dtype, device: torch.device
) -> str:
    """Describe how a model of `config` computes attention in training."""
    if not config.flash_attention:
        return "written out"
    return f"{kernel_chosen(config, batch, dtype, device)} kernel"


def kernel_chosen(config: ModelConfig, batch: int, dtype: torch.dtype, device: torch.device) -> str:
    """Return the name of the kernel that flash_attention uses for a model of `config`."""
    width = config.n_embd // config.n_head
    shape = (batch, config.n_head, config.block_size, width)
    query = torch.empty(shape, dtype=dtype, device=device)
    return kernel_taken(query, config.dropout)
